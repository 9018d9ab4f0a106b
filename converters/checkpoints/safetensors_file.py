"""Safetensors: a JSON header that says where each tensor lies, then the tensors.

The header is read here, because the package's numpy side has no bfloat16.
Source: github.com/huggingface/safetensors, "Format".
"""

import json
import os
import struct
from math import prod
from pathlib import Path
from typing import Any

from rwkv_edge.converters.checkpoints.base import (
    ELEMENT_DTYPES,
    MAX_DIMENSIONS,
    StoredTensor,
    contiguous_strides,
    is_size,
    plain,
    require_plain_name,
)
from rwkv_edge.errors import FormatError

HEADER_LENGTH = struct.Struct("<Q")
# The largest published model needs 0.2 MB; the format itself would allow 100.
MAX_HEADER_BYTES = 16 << 20
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def looks_like_safetensors(head: bytes, n_bytes: int) -> bool:
    """`head`: the first bytes of a file of `n_bytes`; the format has no magic number."""
    if len(head) <= HEADER_LENGTH.size or head[HEADER_LENGTH.size] != ord("{"):
        return False
    header_length: int = HEADER_LENGTH.unpack_from(head)[0]
    return header_length <= max(n_bytes, MAX_HEADER_BYTES)


def read_safetensors_directory(path: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a safetensors file lies; raises FormatError."""
    with open(path, "rb") as file:
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        (header_length,) = HEADER_LENGTH.unpack(file.read(HEADER_LENGTH.size))
        if header_length > min(n_bytes - HEADER_LENGTH.size, MAX_HEADER_BYTES):
            raise FormatError(
                f"{path}: its header says {header_length} bytes, but {n_bytes} make the whole "
                "file; it is damaged or cut short"
            )
        text = file.read(header_length)
    try:
        header = json.loads(text, object_pairs_hook=without_repeats)
    # RecursionError: brackets nested a million deep.
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{path}: its safetensors header is not JSON that makes sense; it is damaged"
        ) from error
    if not isinstance(header, dict):
        raise FormatError(f"{path}: its safetensors header is no table; it is damaged")
    header.pop("__metadata__", None)
    begin = HEADER_LENGTH.size + header_length
    return {
        name: _place(path, require_plain_name(path, name), entry, begin, n_bytes - begin)
        for name, entry in header.items()
    }


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no key stands twice; raises ValueError."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _place(path: Path, name: str, entry: Any, begin: int, n_data: int) -> StoredTensor:
    """Check one entry against the size of the data section."""
    match entry:
        case {"dtype": str(dtype), "shape": list(lengths), "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise FormatError(f"{path}: {name}: its header entry is not understood; it is damaged")
    shape = tuple(lengths)
    if len(shape) > MAX_DIMENSIONS or not all(is_size(n) for n in shape):
        raise FormatError(f"{path}: {name}: its shape is not a list of counts; it is damaged")
    if not 0 <= start <= stop <= n_data:
        raise FormatError(
            f"{path}: {name}: lies at bytes {start} to {stop} of {n_data}; "
            "the file is damaged or cut short"
        )
    known = DTYPES.get(dtype)
    if known is not None:
        wanted = prod(shape) * ELEMENT_DTYPES[known].itemsize
        if stop - start != wanted:
            raise FormatError(
                f"{path}: {name}: holds {stop - start} bytes; {dtype} {lengths} needs {wanted}; "
                "the file is damaged"
            )
    return StoredTensor(known or plain(dtype), shape, contiguous_strides(shape), begin + start)
