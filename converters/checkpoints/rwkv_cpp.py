"""rwkv.cpp's `.bin`: a header, then one parameter after the other, to the end of the file.

Source: rwkv.cpp, docs/FILE_FORMAT.md.
"""

import os
import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

from rwkv_edge.converters.checkpoints.base import MAX_NAME_LENGTH, plain, require_plain_name
from rwkv_edge.converters.checkpoints.tensors import (
    Directory,
    StoredTensor,
    Tensor,
    contiguous_strides,
)
from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.quant import quant_format_of

CONTAINER = "rwkv.cpp"
MAGIC = (0x67676D66).to_bytes(4, "little")
# Magic, version; sizes of the vocabulary, the embedding, the layers; the type of most parameters.
HEADER = struct.Struct("<4s5i")
# Number of dimensions, length of the name, type.
PARAMETER = struct.Struct("<3i")
DIMENSION = struct.Struct("<i")
# The second came when ggml changed its blocks, in May 2023; numbers that are not in blocks are
# the same in both.
VERSIONS = (100, 101)
VERSION_OF_BLOCKS = 101
MAX_DIMENSIONS = 3
# RWKV-7 of 61 layers has 2,200.
MAX_PARAMETERS = 1 << 15
NUMBERS = {0: "float32", 1: "float16"}
# Our number for a format of blocks: ggml's own.
BLOCKS = {2: ("Q4_0", 2), 3: ("Q4_1", 3), 7: ("Q5_0", 6), 8: ("Q5_1", 7), 9: ("Q8_0", 8)}
REMOVED = {4: "Q4_1_O", 5: "Q4_2", 6: "Q4_3"}


def read_rwkv_cpp_directory(path: Path) -> Directory:
    """Where each parameter lies; raises FormatError, UnsupportedModelError, OSError."""
    tensors: dict[str, Tensor] = {}
    with open(path, "rb") as file:
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        version, n_vocab, n_embd = read_header(path, file)
        while (start := file.tell()) < n_bytes:
            if len(tensors) >= MAX_PARAMETERS:
                raise FormatError(f"{path}: has more than {MAX_PARAMETERS} parameters")
            name, tensor = read_parameter(path, file, version)
            size = tensor.n_bytes(tensor.n_elements)
            if size > n_bytes - tensor.offset:
                raise FormatError(
                    f"{path}: {name} at byte {start} needs {size} bytes; "
                    f"{n_bytes - tensor.offset} follow; the file was probably cut short; fetch it "
                    "again"
                )
            if name in tensors:
                raise FormatError(f"{path}: holds {name} twice; it is damaged")
            tensors[name] = tensor
            file.seek(tensor.offset + size)
    embedding = tensors.get("emb.weight")
    if embedding is not None and embedding.shape != (n_vocab, n_embd):
        raise FormatError(
            f"{path}: emb.weight is {list(embedding.shape)}; its header says "
            f"{[n_vocab, n_embd]}; it is damaged"
        )
    return Directory(tensors, (path,), notes=notes_on(tensors))


def read_header(path: Path, file: BinaryIO) -> tuple[int, int, int]:
    """Version, vocabulary and width; raises FormatError."""
    data = file.read(HEADER.size)
    if len(data) != HEADER.size:
        raise FormatError(f"{path}: ends inside its header; fetch it again")
    _, version, n_vocab, n_embd, _, _ = HEADER.unpack(data)
    if version not in VERSIONS:
        raise FormatError(
            f"{path}: says that it is version {version} of rwkv.cpp's format; known are "
            f"{VERSIONS[0]} and {VERSIONS[1]}; llama.cpp's files of before GGUF begin alike"
        )
    return version, n_vocab, n_embd


def read_parameter(path: Path, file: BinaryIO, version: int) -> tuple[str, StoredTensor]:
    """What stands before a parameter's data; its size is not compared with the file's."""

    def read(n_bytes: int) -> bytes:
        data = file.read(n_bytes)
        if len(data) != n_bytes:
            raise FormatError(f"{path}: ends inside a parameter's header; fetch it again")
        return data

    start = file.tell()
    n_dims, name_length, kind = PARAMETER.unpack(read(PARAMETER.size))
    if not 1 <= n_dims <= MAX_DIMENSIONS or not 1 <= name_length <= MAX_NAME_LENGTH:
        raise FormatError(
            f"{path}: the parameter at byte {start} has {n_dims} dimensions and a name of "
            f"{name_length} bytes; the file is damaged"
        )
    # The contiguous dimension comes first.
    shape = tuple(DIMENSION.unpack(read(DIMENSION.size))[0] for _ in range(n_dims))[::-1]
    try:
        name = require_plain_name(path, read(name_length).decode("utf-8"))
    except UnicodeDecodeError:
        raise FormatError(
            f"{path}: the parameter at byte {start} has a name that is no UTF-8; the file is "
            "damaged"
        ) from None
    if min(shape) < 1:
        raise FormatError(f"{path}: {name} is {list(shape)}; the file is damaged")
    dtype = dtype_of(path, name, kind, version)
    tensor = StoredTensor(dtype, shape, contiguous_strides(shape), file.tell())
    try:
        # A row must be whole blocks.
        tensor.n_bytes(shape[-1])
    except FormatError as error:
        raise FormatError(f"{path}: {name}: {error}") from None
    assert prod(shape) == tensor.n_elements
    return name, tensor


def dtype_of(path: Path, name: str, kind: int, version: int) -> str:
    """The kind of number by rwkv.cpp's own count; raises FormatError, UnsupportedModelError."""
    if kind in NUMBERS:
        return NUMBERS[kind]
    if kind in REMOVED:
        raise UnsupportedModelError(
            f"{path}: {name} is {REMOVED[kind]}, which ggml had for some weeks of 2023 and then "
            "removed; convert the .pth"
        )
    if kind not in BLOCKS:
        raise FormatError(f"{path}: {name} has the type {kind}, which rwkv.cpp does not have")
    dtype, ggml_type = BLOCKS[kind]
    if version < VERSION_OF_BLOCKS:
        raise UnsupportedModelError(
            f"{path}: {name} is {dtype} as ggml had it before May 2023, in version {version} of "
            "rwkv.cpp's format, and nothing tells its layouts apart; convert the .pth"
        )
    quant = quant_format_of(ggml_type)
    if quant is None:
        raise UnsupportedModelError(
            f"{path}: {name} is {dtype}, which this version does not read; convert the .pth"
        )
    return quant.__name__


def notes_on(tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """What the user should know of weights that were quantized before."""
    found = sorted({t.dtype for t in tensors.values()} - set(NUMBERS.values()))
    if not found:
        return ()
    return (
        f"its weights are {plain(' and '.join(found))} already: what that lost is missing in the "
        "new file, too; the .pth would give a better one",
    )
