"""The kinds of files that weights are handed round in, and which one a file is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.converters.checkpoints import rwkv_cpp
from rwkv_edge.converters.checkpoints.folder import read_folder_directory
from rwkv_edge.converters.checkpoints.gguf_container import read_gguf_directory
from rwkv_edge.converters.checkpoints.legacy_pth import (
    looks_like_legacy_pth,
    read_legacy_directory,
    read_tar_directory,
)
from rwkv_edge.converters.checkpoints.pth import ZIP_MAGIC, read_pth_directory
from rwkv_edge.converters.checkpoints.safetensors_file import (
    looks_like_safetensors,
    read_safetensors_directory,
)
from rwkv_edge.converters.checkpoints.tar import looks_like_tar
from rwkv_edge.converters.checkpoints.tensors import Directory
from rwkv_edge.errors import FormatError
from rwkv_edge.gguf_reader import MAGIC
from rwkv_edge.onnx_reader import is_onnx

HEAD_BYTES = 512
# The container whose tensors are those of a GGUF already.
GGUF = "gguf"


@dataclass(frozen=True)
class Head:
    """What a container is recognised by: its first bytes, at most HEAD_BYTES, and its size."""

    data: bytes
    n_bytes: int
    is_folder: bool = False


@dataclass(frozen=True)
class Container:
    """One kind of file. name: a key; title: what people call it; recognised_by: for people, too.

    read: where each tensor lies; raises FormatError.
    """

    name: str
    title: str
    recognised_by: str
    recognises: Callable[[Head], bool]
    read: Callable[[Path], Directory]


def read_shard(path: Path) -> Directory:
    """Where the tensors of one file of a folder lie; raises FormatError, OSError."""
    container = container_of(path)
    if container.name not in SHARDS:
        raise FormatError(f"{path}: is {container.title}; wanted safetensors or torch.save's")
    return container.read(path)


# What may lie in a Hugging Face folder.
SHARDS = ("pth", "safetensors", "legacy-pth")
# Explicit, because a frozen desktop build misses imports made from strings. The first that
# recognises a file reads it.
CONTAINERS: tuple[Container, ...] = (
    Container(
        "folder",
        "a Hugging Face folder",
        "model.safetensors or pytorch_model.bin in it, or their index",
        lambda head: head.is_folder,
        lambda path: read_folder_directory(path, read_shard),
    ),
    Container(
        "pth",
        ".pth of torch.save",
        "a zip file with data.pkl",
        lambda head: head.data.startswith(ZIP_MAGIC),
        read_pth_directory,
    ),
    Container(
        "safetensors",
        ".safetensors or .st",
        "a JSON header after its length",
        lambda head: looks_like_safetensors(head.data, head.n_bytes),
        read_safetensors_directory,
    ),
    Container(
        GGUF,
        "GGUF in F32, F16 or BF16",
        "its magic number",
        lambda head: head.data.startswith(MAGIC),
        read_gguf_directory,
    ),
    Container(
        rwkv_cpp.CONTAINER,
        "rwkv.cpp's .bin",
        "its magic number",
        lambda head: head.data.startswith(rwkv_cpp.MAGIC),
        rwkv_cpp.read_rwkv_cpp_directory,
    ),
    Container(
        "legacy-pth",
        ".pth of torch before 1.6",
        "torch's magic number in a pickle",
        lambda head: looks_like_legacy_pth(head.data),
        read_legacy_directory,
    ),
    Container(
        "tar-pth",
        ".pth of torch before 0.1.10",
        "a tar file",
        lambda head: looks_like_tar(head.data),
        read_tar_directory,
    ),
)

# What people hand over by mistake, and what to say about it.
FOREIGN_MAGICS = {
    b"\x80": "is a pickle, but not one that torch.save wrote; save the plain state dict with "
    "torch.save(model.state_dict(), path)",
    rwkv_cpp.MAGIC[
        ::-1
    ]: "is a big-endian file of rwkv.cpp, which no laptop reads; convert the .pth",
    b"version https://git-lfs": "is a git-lfs pointer, not the file itself; run `git lfs pull`",
    b"<": "is a web page, not a checkpoint; fetch the file itself",
    b"PK": "is an empty or split zip file, not a checkpoint; fetch it again",
}


def container_of(path: Path) -> Container:
    """Which kind of file it is, by its content; raises FormatError, OSError."""
    head = head_of(path)
    for container in CONTAINERS:
        if container.recognises(head):
            return container
    for magic, sentence in FOREIGN_MAGICS.items():
        if head.data.lstrip().startswith(magic):
            raise FormatError(f"{path}: {sentence}")
    if is_onnx(path):
        raise FormatError(
            f"{path}: is an ONNX; convert the checkpoint or the GGUF that it was made from"
        )
    titles = ", ".join(container.title for container in CONTAINERS)
    raise FormatError(
        f"{path}: is neither a .pth nor a safetensors file, nor any other of those that are known "
        f"here: {titles}"
    )


def head_of(path: Path) -> Head:
    """The beginning of a file; raises FormatError for none, OSError."""
    if path.is_dir():
        return Head(b"", 0, is_folder=True)
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: is not a regular file")
    with open(path, "rb") as file:
        data = file.read(HEAD_BYTES)
    if not data:
        raise FormatError(f"{path}: is empty")
    return Head(data, path.stat().st_size)
