"""The names that other projects give to RWKV's tensors, version by version."""

from dataclasses import replace
from pathlib import Path

from rwkv_edge.converters.checkpoints import Directory
from rwkv_edge.converters.checkpoints.tensors import StoredTensor
from rwkv_edge.converters.names import rwkv4, rwkv5, rwkv6, rwkv7, rwkv_cpp
from rwkv_edge.converters.names.base import Naming, View
from rwkv_edge.errors import FormatError

__all__ = ["NAMINGS", "Naming", "in_own_names", "naming_of"]

# Explicit, because a frozen desktop build misses imports made from strings.
NAMINGS: tuple[Naming, ...] = (
    rwkv4.HUGGINGFACE,
    rwkv5.HUGGINGFACE,
    rwkv5.WEB_RWKV,
    rwkv6.HUGGINGFACE,
    rwkv6.FLA,
    rwkv6.WEB_RWKV,
    rwkv7.FLA,
    rwkv7.HUGGINGFACE,
    rwkv7.WEB_RWKV,
    rwkv_cpp.RWKV4,
    rwkv_cpp.RWKV5,
    rwkv_cpp.RWKV6,
    rwkv_cpp.RWKV7,
)


def naming_of(directory: Directory) -> Naming | None:
    """Whose names these are; None for RWKV-LM's own, and for those that nobody here knows."""
    view = View(directory)
    return next((naming for naming in NAMINGS if naming.recognises(view)), None)


def in_own_names(path: Path, directory: Directory) -> Directory:
    """The same tensors as RWKV-LM names and lays them out; raises FormatError.

    What nobody here knows stays as it is.
    """
    naming = naming_of(directory)
    if naming is not None:
        try:
            tensors = naming.own_tensors(View(directory))
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error
        notes = (*directory.notes, *naming.notes)
        directory = replace(directory, tensors=tensors, naming=naming.title, notes=notes)
    return completed(directory) if directory.config else directory


def completed(directory: Directory) -> Directory:
    """What the tensors do not say themselves, by the config.json beside them.

    That is the size of a head where r_k is flat, and that the model's head is its embedding.
    """
    config, tensors = directory.config, dict(directory.tensors)
    is_tied = config.get("tie_word_embeddings") is True
    if is_tied and "head.weight" not in tensors and "emb.weight" in tensors:
        tensors["head.weight"] = tensors["emb.weight"]
    head_size = config.get("head_dim", config.get("head_size"))
    for name, tensor in tensors.items():
        if (
            name.endswith(".att.r_k")
            and isinstance(tensor, StoredTensor)
            and isinstance(head_size, int)
            and 0 < head_size <= tensor.n_elements
            and tensor.n_elements % head_size == 0
            and max(tensor.shape, default=0) == tensor.n_elements
            and tensor.is_contiguous
        ):
            tensors[name] = tensor.reshaped((tensor.n_elements // head_size, head_size))
    return replace(directory, tensors=tensors)
