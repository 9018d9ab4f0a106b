"""Reading checkpoints: which kind of file it is, then where its tensors lie."""

import re
from pathlib import Path

from rwkv_edge.converters.checkpoints.base import Checkpoint, StoredTensor
from rwkv_edge.converters.checkpoints.pth import ZIP_MAGIC, read_pth_directory
from rwkv_edge.converters.checkpoints.safetensors_file import (
    looks_like_safetensors,
    read_safetensors_directory,
)
from rwkv_edge.errors import FormatError

__all__ = ["Checkpoint", "open_checkpoint"]

# What people hand over by mistake, and what to say about it.
FOREIGN_MAGICS = {
    b"GGUF": "is a GGUF already; run it as it is, or convert the .pth that it came from",
    b"\x80": "is a checkpoint in the old format of torch.save, before version 1.6; load it with "
    "torch and save it again with torch.save(torch.load(path, map_location='cpu'), new_path)",
    b"version https://git-lfs": "is a git-lfs pointer, not the file itself; run `git lfs pull`",
    b"<": "is a web page, not a checkpoint; fetch the file itself",
    b"PK": "is an empty or split zip file, not a checkpoint; fetch it again",
}
# `ustar` stands here in the header of a tar file, which torch.save wrote before version 0.1.10.
TAR_MAGIC = (257, b"ustar")
HEAD_BYTES = 512
# What wrappers such as lightning or DDP put before every name.
PREFIX = re.compile(r"^(?:module\.|model\.|_orig_mod\.)+")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a `.pth` or safetensors file, told apart by content; raises FormatError."""
    path = Path(path)
    if path.is_dir():
        raise FormatError(f"{path}: is a folder; name the checkpoint file in it")
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: is not a regular file")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        seen = path.stat()
        tensors = _read_directory(path, head, seen.st_size)
        if not tensors:
            raise FormatError(f"{path}: holds no tensors")
        checkpoint = Checkpoint(path, without_prefix(path, tensors))
        # Else the places of one file's tensors would be looked up in another.
        try:
            checkpoint.require_unchanged(seen)
        except FormatError:
            checkpoint.close()
            raise
        return checkpoint
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_directory(path: Path, head: bytes, n_bytes: int) -> dict[str, StoredTensor]:
    """Where the tensors lie, by the kind of file that its first bytes show."""
    if not head:
        raise FormatError(f"{path}: is empty")
    if head.startswith(ZIP_MAGIC):
        return read_pth_directory(path)
    if looks_like_safetensors(head, n_bytes):
        return read_safetensors_directory(path)
    for magic, sentence in FOREIGN_MAGICS.items():
        if head.lstrip().startswith(magic):
            raise FormatError(f"{path}: {sentence}")
    if head[TAR_MAGIC[0] :].startswith(TAR_MAGIC[1]):
        raise FormatError(f"{path}: {FOREIGN_MAGICS[bytes([0x80])]}")
    raise FormatError(f"{path}: is neither a .pth nor a safetensors file")


def without_prefix(path: Path, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Names as RWKV's own training code writes them: `emb.weight`, not `model.emb.weight`."""
    renamed = {PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        raise FormatError(f"{path}: names some tensors twice, with and without a prefix")
    return renamed
