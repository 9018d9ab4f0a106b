"""The dict of tensors that `torch.save` wrote, in whichever of its formats, and where they lie."""

from pathlib import Path
from typing import Any

from rwkv_edge.converters.checkpoints.pickled import PickledTensor, PickleError
from rwkv_edge.converters.checkpoints.tensors import ELEMENT_DTYPES, StoredTensor
from rwkv_edge.errors import FormatError

# A state dict is one level deep; training scripts wrap it once or twice.
MAX_NESTING = 3
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module")


def find_state_dict(pickled: dict[Any, Any]) -> dict[Any, PickledTensor]:
    """The dict of tensors, which training scripts wrap in others; raises PickleError."""
    found = pickled
    for _ in range(MAX_NESTING):
        if found and all(isinstance(value, PickledTensor) for value in found.values()):
            return found
        wrapped = [key for key in STATE_DICT_KEYS if isinstance(found.get(key), dict)]
        if len(wrapped) != 1:
            break
        found = found[wrapped[0]]
    raise PickleError(
        "holds no dict of tensors by name, alone or under one of "
        f"{', '.join(STATE_DICT_KEYS)}; save it with torch.save(model.state_dict(), path)"
    )


def place(path: Path, name: str, tensor: PickledTensor, start: int, n_bytes: int) -> StoredTensor:
    """Check a tensor against the `n_bytes` that hold its storage, from `start` on in the file."""
    storage = tensor.storage
    element = ELEMENT_DTYPES.get(storage.dtype)
    if element is None:
        # Listed for the message that refuses it, never read.
        return StoredTensor(storage.dtype, tensor.shape, tensor.strides, start)
    if n_bytes != storage.n_elements * element.itemsize:
        raise FormatError(
            f"{path}: {name}: its storage holds {n_bytes} bytes; {storage.n_elements} "
            f"{storage.dtype} numbers need {storage.n_elements * element.itemsize}; "
            "the file is damaged"
        )
    offset = start + (storage.first + tensor.offset) * element.itemsize
    placed = StoredTensor(storage.dtype, tensor.shape, tensor.strides, offset)
    n_available = storage.n_visible - tensor.offset
    # n_elements exceeds span where a stride is zero: a tiny file must not become a huge tensor.
    if max(placed.span, placed.n_elements) > n_available:
        raise FormatError(
            f"{path}: {name}: {list(tensor.shape)} with strides {list(tensor.strides)} needs "
            f"{max(placed.span, placed.n_elements)} numbers; its storage has {n_available}; "
            "the file is damaged"
        )
    return placed
