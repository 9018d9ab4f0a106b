"""How each version's checkpoint becomes its GGUF tensors, one file each."""

from rwkv_edge.converters.arch.base import (
    AsStored,
    CheckpointReader,
    Shapes,
    Source,
)
from rwkv_edge.converters.arch.rwkv5 import Rwkv5Reader
from rwkv_edge.converters.arch.rwkv6 import Rwkv6Reader
from rwkv_edge.converters.arch.rwkv7 import Rwkv7Reader
from rwkv_edge.converters.arch.versions import version_of
from rwkv_edge.errors import UnsupportedModelError

__all__ = ["AsStored", "CheckpointReader", "Shapes", "Source", "recognise"]

# Explicit, because a frozen desktop build misses imports made from strings.
CHECKPOINT_READERS: dict[str, CheckpointReader] = {
    "5.0": Rwkv5Reader("5.0"),
    "5.1": Rwkv5Reader("5.1"),
    "5.2": Rwkv5Reader("5.2"),
    "6": Rwkv6Reader(),
    "7": Rwkv7Reader(),
}


def recognise(shapes: Shapes) -> CheckpointReader:
    """The reader for a checkpoint's version; raises UnsupportedModelError."""
    version = version_of(shapes)
    reader = CHECKPOINT_READERS.get(version)
    if reader is None:
        known = ", ".join(f"RWKV-{name}" for name in CHECKPOINT_READERS)
        raise UnsupportedModelError(f"is an RWKV-{version} model; this release runs {known}")
    return reader
