"""Reading checkpoints: which kind of file it is, then where its tensors lie."""

import re
from dataclasses import replace
from pathlib import Path

from rwkv_edge.converters.checkpoints.base import Checkpoint
from rwkv_edge.converters.checkpoints.containers import CONTAINERS, GGUF, Container, container_of
from rwkv_edge.converters.checkpoints.tensors import Directory, Stamp, stamp_of
from rwkv_edge.errors import FormatError

__all__ = [
    "CONTAINERS",
    "GGUF",
    "Checkpoint",
    "Container",
    "Directory",
    "container_of",
    "open_checkpoint",
    "open_directory",
    "read_directory",
]

# What wrappers such as lightning or DDP put before every name.
PREFIX = re.compile(r"^(?:module\.|model\.|_orig_mod\.)+")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open weights in any of CONTAINERS, told apart by content.

    The tensors have the names that the file gives them, less a prefix such as `module.`. Raises
    FormatError, and UnsupportedModelError for types of weights that nobody reads any more.
    """
    path = Path(path)
    return open_directory(path, read_directory(path))


def open_directory(path: Path, directory: Directory) -> Checkpoint:
    """Open the files that a directory describes; raises FormatError."""
    try:
        return Checkpoint(path, directory)
    except OSError as error:
        raise unreadable(path, error) from error


def read_directory(path: Path) -> Directory:
    """Where the tensors of a file or folder lie, by name; raises as `open_checkpoint` does."""
    try:
        # Before anything is read: else the places of one file's tensors could be looked up in
        # another that took its name.
        seen = stamps_of(path)
        container = container_of(path)
        found = container.read(path)
        stamps = tuple(seen.get(file.name) or stamp_of(file.stat()) for file in found.files)
        directory = replace(found, container=container.name, stamps=stamps)
    except OSError as error:
        raise unreadable(path, error) from error
    if not directory.tensors:
        raise FormatError(f"{path}: holds no tensors")
    return without_prefix(path, directory)


def stamps_of(path: Path) -> dict[str, Stamp]:
    """A file's stamp, or those of all files in a folder, by name; raises OSError."""
    if path.is_dir():
        return {file.name: stamp_of(file.stat()) for file in path.iterdir() if file.exists()}
    return {path.name: stamp_of(path.stat())}


def unreadable(path: Path, error: OSError) -> FormatError:
    """One line for a file that the system does not give."""
    if isinstance(error, FileNotFoundError):
        return FormatError(f"{error.filename or path}: no such file")
    return FormatError(f"{error.filename or path}: cannot be read: {error.strerror or error}")


def without_prefix(path: Path, directory: Directory) -> Directory:
    """Names as RWKV's own training code writes them: `emb.weight`, not `model.emb.weight`."""
    renamed = {PREFIX.sub("", name): tensor for name, tensor in directory.tensors.items()}
    if len(renamed) != len(directory.tensors):
        raise FormatError(f"{path}: names some tensors twice, with and without a prefix")
    return replace(directory, tensors=renamed)
