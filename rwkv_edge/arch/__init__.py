"""The versions of RWKV that this package knows, one file each."""

from rwkv_edge.arch.base import Architecture, Role, Shape, TensorSpec
from rwkv_edge.arch.rwkv4 import Rwkv4
from rwkv_edge.arch.rwkv5 import Rwkv5
from rwkv_edge.arch.rwkv6 import Rwkv6
from rwkv_edge.arch.rwkv7 import Rwkv7
from rwkv_edge.arch.rwkv7a import Rwkv7a

# Explicit, because a frozen desktop build misses imports made from strings.
ARCHITECTURES: dict[str, Architecture] = {
    "rwkv4": Rwkv4(),
    "rwkv5": Rwkv5(),
    "rwkv6": Rwkv6(),
    "rwkv7": Rwkv7(),
    "rwkv7a": Rwkv7a(),
}

__all__ = ["ARCHITECTURES", "Architecture", "Role", "Shape", "TensorSpec", "architecture_of"]


def architecture_of(version: str) -> Architecture:
    """The architecture whose files hold this version."""
    return next(a for a in ARCHITECTURES.values() if version in a.versions)
