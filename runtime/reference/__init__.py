"""Each version of RWKV in plain numpy float32, one file each: what kernels must meet."""

from rwkv_edge.runtime.reference.base import ReferenceModel
from rwkv_edge.runtime.reference.rwkv4 import Rwkv4
from rwkv_edge.runtime.reference.rwkv5 import Rwkv5
from rwkv_edge.runtime.reference.rwkv6 import Rwkv6
from rwkv_edge.runtime.reference.rwkv7 import Rwkv7
from rwkv_edge.runtime.reference.rwkv7a import Rwkv7a

# By version. Explicit, because a frozen desktop build misses imports made from strings.
REFERENCES: dict[str, type[ReferenceModel]] = {
    "4": Rwkv4,
    "5.0": Rwkv5,
    "5.1": Rwkv5,
    "5.2": Rwkv5,
    "6": Rwkv6,
    "7": Rwkv7,
    "7a": Rwkv7a,
}

__all__ = ["REFERENCES", "ReferenceModel"]
