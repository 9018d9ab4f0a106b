"""A GGUF to convert again: its tensors are already what the schema wants, in another type."""

from dataclasses import replace
from pathlib import Path

from rwkv_edge.arch import Role, TensorSpec
from rwkv_edge.converters.arch import AsStored, Source, Unchanged
from rwkv_edge.converters.arch.base import Stacked
from rwkv_edge.converters.carried_keys import CarriedKeys, carried_keys
from rwkv_edge.converters.checkpoints.tensors import (
    ELEMENT_DTYPES,
    Directory,
    StoredTensor,
    Tensor,
)
from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.quant import F32

# How many names a note shows.
N_SHOWN = 3


def schema_of_gguf(
    path: Path, directory: Directory, *, as_stored: bool = False
) -> tuple[Directory, Hyperparameters, dict[str, Source], CarriedKeys]:
    """The tensors in the schema's shapes, what they make, where each comes from, and the keys.

    as_stored: tensors keep the format that they have, whichever that is; but vectors become
    float32, as in every file that is written here.
    Raises FormatError, UnsupportedModelError.
    """
    try:
        file = ModelFile(path)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        hp = file.hyperparameters
        specs = file.architecture.tensors(hp)
        parts = {spec.name: file.architecture.older_parts(spec.name) for spec in specs}
        formats = {spec.name: file.tensor(spec.name).quant_format for spec in specs}
        keys = carried_keys(file.gguf)
    finally:
        file.close()
    tensors: dict[str, Tensor] = {}
    sources: dict[str, Source] = {}
    for spec in specs:
        stored = directory.tensors.get(spec.name)
        # Where one is not there, the file has passed the check with what older ones hold instead.
        names = (spec.name,) if stored is not None else parts[spec.name]
        for name in names:
            if not as_stored:
                require_plain_numbers(path, directory, name)
            tensors[name] = in_place(directory, name, spec if stored is not None else None)
        if stored is None:
            sources[spec.name] = Stacked(names)
        elif as_stored and (spec.role is not Role.VECTOR or formats[spec.name] is F32):
            sources[spec.name] = Unchanged(spec.name, formats[spec.name])
        else:
            sources[spec.name] = AsStored(spec.name)
    unused = [name for name in directory.tensors if name not in tensors]
    notes = directory.notes
    if unused:
        shown = ", ".join(unused[:N_SHOWN]) + (" and others" if len(unused) > N_SHOWN else "")
        notes = (*notes, f"left out, since RWKV-{hp.version} has no such tensor: {shown}")
    return replace(directory, tensors=tensors, notes=notes), hp, sources, keys


def in_place(directory: Directory, name: str, spec: TensorSpec | None) -> StoredTensor:
    """A tensor, in the shape of its place if it has one."""
    tensor = directory.tensors[name]
    assert isinstance(tensor, StoredTensor)
    return tensor if spec is None else tensor.reshaped(spec.shape)


def require_plain_numbers(path: Path, directory: Directory, name: str) -> None:
    """Raise UnsupportedModelError for a tensor that is quantized."""
    dtype = directory.tensors[name].dtype
    if dtype not in ELEMENT_DTYPES:
        raise UnsupportedModelError(
            f"{path}: {name} is {dtype} already, and quantizing it again would lose more than "
            "once; convert the .pth that it came from, or a GGUF in F32, F16 or BF16; into an ONNX "
            "without a weight type it goes as it is"
        )
