"""Safetensors: a JSON header that says where each tensor lies, then the tensors, without gaps.

The safetensors package checks the header and gives types and shapes; the numbers are read here,
because its numpy side has no bfloat16 and gives whole tensors only.
"""

import struct
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rwkv_edge.converters.checkpoints.base import (
    MAX_DIMENSIONS,
    Directory,
    StoredTensor,
    Tensor,
    contiguous_strides,
    plain,
    require_plain_name,
)
from rwkv_edge.errors import FormatError

HEADER_LENGTH = struct.Struct("<Q")
# The largest published model needs 0.2 MB; the format itself would allow 100. What it becomes in
# memory takes 14 times its size.
MAX_HEADER_BYTES = 4 << 20
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Bits of a number of every type that the format has, for those that are only passed over.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


def looks_like_safetensors(head: bytes, n_bytes: int) -> bool:
    """`head`: the first bytes of a file of `n_bytes`; the format has no magic number."""
    if len(head) <= HEADER_LENGTH.size or head[HEADER_LENGTH.size] != ord("{"):
        return False
    header_length: int = HEADER_LENGTH.unpack_from(head)[0]
    return header_length <= max(n_bytes, MAX_HEADER_BYTES)


def read_safetensors_directory(path: Path) -> Directory:
    """Where each tensor of a safetensors file lies; raises FormatError."""
    with open(path, "rb") as file:
        (header_length,) = HEADER_LENGTH.unpack(file.read(HEADER_LENGTH.size))
    if header_length > MAX_HEADER_BYTES:
        raise FormatError(f"{path}: its header says {header_length} bytes; it is damaged")
    directory: dict[str, Tensor] = {}
    offset = HEADER_LENGTH.size + header_length
    try:
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.offset_keys():
                entry = tensors.get_slice(name)
                dtype, shape = str(entry.get_dtype()), tuple(entry.get_shape())
                if len(shape) > MAX_DIMENSIONS or dtype not in BITS:
                    raise FormatError(
                        f"{path}: {plain(name)}: {plain(dtype)} of {len(shape)} dimensions is "
                        "in no RWKV checkpoint; the file is damaged or foreign"
                    )
                known = DTYPES.get(dtype)
                directory[require_plain_name(path, name)] = StoredTensor(
                    known or dtype, shape, contiguous_strides(shape), offset
                )
                offset += prod(shape) * BITS[dtype] // 8
    except SafetensorError as error:
        raise FormatError(
            f"{path}: not a safetensors file, or it is damaged or cut short ({plain(str(error))})"
        ) from error
    return Directory(directory, (path,))
