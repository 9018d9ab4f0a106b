"""A model as Hugging Face hands it round: a folder of weights, often in shards, and a config.json.

Nothing outside the folder is read: an index names files, and must not become a way to others.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rwkv_edge.converters.checkpoints.base import plain
from rwkv_edge.converters.checkpoints.tensors import Directory, StoredTensor, Tensor
from rwkv_edge.errors import FormatError

# In the order in which transformers looks for them; an index names the shards.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX_SUFFIX = ".index.json"
CONFIG = "config.json"
# The largest published RWKV needs 0.2 MB.
MAX_JSON_BYTES = 16 << 20
MAX_SHARDS = 1000
# Hugging Face's own cache keeps files here, and links to them from `snapshots/REVISION`.
HUB_BLOBS, HUB_SNAPSHOTS = "blobs", "snapshots"


def read_folder_directory(path: Path, read_shard: Callable[[Path], Directory]) -> Directory:
    """Where each tensor of a folder's files lies; raises FormatError, OSError.

    read_shard: where those of one file lie.
    """
    found = next((name for name in WEIGHTS if (path / name).exists()), None)
    if found is None:
        raise FormatError(
            f"{path}: is a folder without {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}; name the "
            "checkpoint file in it"
        )
    config = read_json(inside(path, CONFIG)) if (path / CONFIG).exists() else {}
    announced: dict[str, str] = {}
    names = [found]
    if found.endswith(INDEX_SUFFIX):
        announced = shards_by_tensor(path, found)
        names = sorted(set(announced.values()))
    tensors: dict[str, Tensor] = {}
    holder: dict[str, str] = {}
    files = []
    for i, name in enumerate(names):
        shard = inside(path, name)
        if not shard.exists():
            raise FormatError(f"{path}: {name} is missing, which {found} names; fetch it too")
        files.append(shard)
        for tensor_name, tensor in read_shard(shard).tensors.items():
            if tensor_name in tensors:
                raise FormatError(
                    f"{path}: {tensor_name} is in {holder[tensor_name]} and in {name}; fetch the "
                    "folder again"
                )
            assert isinstance(tensor, StoredTensor)
            tensors[tensor_name] = replace(tensor, file=i)
            holder[tensor_name] = name
    for tensor_name, name in announced.items():
        if holder.get(tensor_name) != name:
            raise FormatError(
                f"{path}: {plain(tensor_name)} is not in {name}, where {found} says it is; fetch "
                "the folder again"
            )
    return Directory(tensors, tuple(files), config=config)


def shards_by_tensor(path: Path, index: str) -> dict[str, str]:
    """Which file holds each tensor, by an index; raises FormatError."""
    weight_map = read_json(inside(path, index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{path}: {index} has no weight_map; fetch it again")
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise FormatError(f"{path}: {index} names a file that is no text; fetch it again")
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise FormatError(f"{path}: {index} names more than {MAX_SHARDS} files; it is damaged")
    return weight_map


def inside(path: Path, name: str) -> Path:
    """A file of the folder; raises FormatError for a name or a link that leads elsewhere."""
    # Both, because an index that is harmless on one system must not be harmful on another.
    is_plain = PurePosixPath(name).name == name == PureWindowsPath(name).name and ":" not in name
    if not is_plain or plain(name) != name or name in ("", ".", ".."):
        raise FormatError(
            f"{path}: names the file {plain(name)!r}, which is not one in the folder; nothing "
            "outside of it is read"
        )
    folder = path.resolve()
    try:
        target = (folder / name).resolve()
    # What Python up to 3.12 makes of links that lead to each other.
    except RuntimeError as error:
        raise FormatError(f"{path}: {name} is a link that leads nowhere") from error
    homes = [folder]
    if folder.parent.name == HUB_SNAPSHOTS:
        homes.append(folder.parent.parent / HUB_BLOBS)
    if target.parent not in homes:
        raise FormatError(
            f"{path}: {name} is a link to {plain(str(target))}, outside of the folder, where "
            "nothing is read; put the file itself there"
        )
    return path / name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises FormatError, OSError."""
    if not path.is_file():
        raise FormatError(f"{path}: is not a regular file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise FormatError(f"{path}: has more than {MAX_JSON_BYTES} bytes; no model needs that")
    try:
        content = json.loads(path.read_bytes())
    # Also the UnicodeDecodeError of bytes that are no text; deep nesting recurses.
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is not JSON; fetch it again") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: holds something else than a JSON object; fetch it again")
    return content
