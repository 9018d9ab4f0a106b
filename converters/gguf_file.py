"""The header of a GGUF: keys, tokenizer, table of tensors. Their bytes are streamed after it."""

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import gguf
import gguf.gguf_writer
import numpy as np

from rwkv_edge.arch import TensorSpec
from rwkv_edge.chat_templates import TEMPLATE_KEY
from rwkv_edge.converters.carried_keys import TypedValue
from rwkv_edge.converters.tokenizers import EmbeddedTokenizer
from rwkv_edge.converters.weight_types import FILE_TYPES
from rwkv_edge.gguf_types import SCALARS
from rwkv_edge.quant import QuantFormat
from rwkv_edge.tokenizers.gguf_vocabulary import KIND_KEY

ALIGNMENT: int = gguf.GGUF_DEFAULT_ALIGNMENT
# Lengths and offsets, and what names a type or a number of dimensions.
COUNT_BYTES, TYPE_BYTES = 8, 4
# Magic, version, how many tensors, how many keys.
FIXED_BYTES = 2 * TYPE_BYTES + 2 * COUNT_BYTES
SCALAR_BYTES = {kind: struct.calcsize("<" + code) for kind, code in SCALARS.items()}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor and the format that it is stored in."""

    spec: TensorSpec
    quant: type[QuantFormat]

    @property
    def n_bytes(self) -> int:
        """Bytes of its data, padding not counted."""
        n_rows = math.prod(self.spec.shape[:-1])
        return n_rows * self.quant.row_bytes(self.spec.shape[-1])


@dataclass(frozen=True)
class GgufHeader:
    """Everything that stands before the first tensor's bytes.

    metadata: the `{architecture}.*` keys and our own; weight_type: a key of FILE_TYPES. carried:
    keys of the GGUF that this one is made from, which take the place of those in `metadata`.
    """

    architecture: str
    name: str
    weight_type: str
    metadata: Mapping[str, int | float | str | list[str]]
    tokenizer: EmbeddedTokenizer
    n_vocab: int
    tensors: list[PlannedTensor]
    carried: Mapping[str, TypedValue] = field(default_factory=dict)


def write_header(file: BinaryIO, header: GgufHeader) -> None:
    """Write the header, and leave `file` where the first tensor's bytes belong.

    file: empty, opened by a path, which gguf's writer opens again.
    """
    writer = writer_of(header)
    try:
        writer.write_header_to_file(Path(file.name))
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    file.seek(0, os.SEEK_END)
    pad(file)


def header_bytes(header: GgufHeader) -> int:
    """What `write_header` writes, counted without writing it, padding included."""
    writer = writer_of(header)
    n_bytes = FIXED_BYTES
    for key, value in writer.kv_data[0].items():
        n_bytes += text_bytes(key) + TYPE_BYTES + value_bytes(value)
    for name, info in writer.tensors[0].items():
        n_bytes += text_bytes(name) + TYPE_BYTES + COUNT_BYTES * len(info.shape)
        # Its weight type, and where its bytes begin.
        n_bytes += TYPE_BYTES + COUNT_BYTES
    return padded(n_bytes)


def text_bytes(text: str | bytes) -> int:
    """A text behind its length."""
    return COUNT_BYTES + len(text if isinstance(text, bytes) else text.encode("utf-8"))


def value_bytes(value: gguf.gguf_writer.GGUFValue) -> int:
    """A key's value, without its type."""
    content = value.value
    if value.type == gguf.GGUFValueType.STRING:
        return text_bytes(content)
    if value.type != gguf.GGUFValueType.ARRAY:
        return SCALAR_BYTES[value.type]
    head = TYPE_BYTES + COUNT_BYTES
    if isinstance(content, bytes):
        return head + len(content)
    if isinstance(content[0], str | bytes):
        return head + sum(map(text_bytes, content))
    item = gguf.GGUFValueType.get_type(content[0]) if value.sub_type is None else value.sub_type
    return head + len(content) * SCALAR_BYTES[item]


def writer_of(header: GgufHeader) -> gguf.GGUFWriter:
    """A writer that was told all of the header, and has no file yet."""
    writer = gguf.GGUFWriter(None, header.architecture)
    writer.add_name(header.name)
    writer.add_file_type(FILE_TYPES[header.weight_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in header.metadata.items():
        if key in header.carried:
            header.carried[key].add_to(writer, key)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    for key, carried in header.carried.items():
        if key not in header.metadata:
            carried.add_to(writer, key)
    add_tokenizer(writer, header.tokenizer, header.n_vocab)
    for tensor in header.tensors:
        writer.add_tensor_info(
            tensor.spec.name,
            tensor.spec.shape,
            np.dtype(np.float32),
            tensor.n_bytes,
            gguf.GGMLQuantizationType(tensor.quant.ggml_type),
        )
    return writer


def padded(n_bytes: int) -> int:
    """Bytes up to the next place where a tensor may begin."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def pad(file: BinaryIO) -> None:
    """Zeros up to the next place where a tensor may begin."""
    end = file.tell()
    file.write(bytes(padded(end) - end))


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: EmbeddedTokenizer, n_vocab: int) -> None:
    """The tokenizer whole, which of ours reads it, and how its models chat."""
    tokenizer.add_keys(writer, n_vocab)
    writer.add_string(KIND_KEY, tokenizer.kind)
    if tokenizer.chat_template is not None:
        writer.add_string(TEMPLATE_KEY, tokenizer.chat_template)
