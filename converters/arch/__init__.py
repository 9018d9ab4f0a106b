"""How each version's checkpoint becomes its GGUF tensors, one file each."""

from rwkv_edge.converters.arch.base import (
    AsStored,
    CheckpointReader,
    ComputedRows,
    Shapes,
    Source,
    Unchanged,
)
from rwkv_edge.converters.arch.rwkv4 import Rwkv4Reader
from rwkv_edge.converters.arch.rwkv5 import Rwkv5Reader
from rwkv_edge.converters.arch.rwkv6 import Rwkv6Reader
from rwkv_edge.converters.arch.rwkv7 import Rwkv7Reader
from rwkv_edge.converters.arch.rwkv7a import Rwkv7aReader
from rwkv_edge.converters.arch.versions import version_of
from rwkv_edge.errors import UnsupportedModelError

__all__ = [
    "AsStored",
    "CheckpointReader",
    "ComputedRows",
    "Shapes",
    "Source",
    "Unchanged",
    "recognise",
]

# Explicit, because a frozen desktop build misses imports made from strings.
CHECKPOINT_READERS: dict[str, CheckpointReader] = {
    "4": Rwkv4Reader(),
    "5.0": Rwkv5Reader("5.0"),
    "5.1": Rwkv5Reader("5.1"),
    "5.2": Rwkv5Reader("5.2"),
    "6": Rwkv6Reader(),
    "7": Rwkv7Reader(),
    "7a": Rwkv7aReader(),
}
# What is known by name but not run, and why not.
NOT_RUN: dict[str, str] = {
    "7b": "it keeps an entry for every token it has read, so its memory grows with the text",
    "8": "a release candidate, with layers beside those of RWKV-7: ffn.enn, qkv",
}


def recognise(shapes: Shapes) -> CheckpointReader:
    """The reader for a checkpoint's version; raises UnsupportedModelError."""
    version = version_of(shapes)
    reader = CHECKPOINT_READERS.get(version)
    if reader is None:
        known = ", ".join(f"RWKV-{name}" for name in CHECKPOINT_READERS)
        why = f" ({NOT_RUN[version]})" if version in NOT_RUN else ""
        raise UnsupportedModelError(f"is an RWKV-{version} model{why}; this release runs {known}")
    return reader
