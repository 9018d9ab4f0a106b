"""The tensors, inputs and outputs of an ONNX. Numbers of fields are those of onnx.proto."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rwkv_edge.arch.base import Shape
from rwkv_edge.errors import FormatError, shown
from rwkv_edge.mapped_file import MappedFile
from rwkv_edge.onnx_wire import LENGTH, VARINT, Field, Wire, signed
from rwkv_edge.quant import Bytes

# Of TensorProto. Numbers lie in one of the typed fields unless they are raw, or elsewhere.
DIMS, DATA_TYPE, NAME, RAW, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 9, 13, 14
TYPED = (4, 5, 6, 7, 10, 11)
EXTERNAL = 1
# TensorProto.DataType by number: its name, and the bits of a number, 0 where they are not counted.
DATA_TYPES = {
    1: ("FLOAT", 32), 2: ("UINT8", 8), 3: ("INT8", 8), 4: ("UINT16", 16), 5: ("INT16", 16),
    6: ("INT32", 32), 7: ("INT64", 64), 8: ("STRING", 0), 9: ("BOOL", 8), 10: ("FLOAT16", 16),
    11: ("DOUBLE", 64), 12: ("UINT32", 32), 13: ("UINT64", 64), 14: ("COMPLEX64", 64),
    15: ("COMPLEX128", 128), 16: ("BFLOAT16", 16), 17: ("FLOAT8E4M3FN", 8),
    18: ("FLOAT8E4M3FNUZ", 8), 19: ("FLOAT8E5M2", 8), 20: ("FLOAT8E5M2FNUZ", 8), 21: ("UINT4", 4),
    22: ("INT4", 4), 23: ("FLOAT4E2M1", 4), 24: ("FLOAT8E8M0", 8), 25: ("UINT2", 2),
    26: ("INT2", 2), 27: ("FLOAT6E2M3", 0), 28: ("FLOAT6E3M2", 0),
}  # fmt: skip
BITS = 8
# Few models have more than six.
MAX_DIMENSIONS = 16
# Numbers of a typed field take a byte at least, in which there may be four.
MOST_PER_BYTE = 4
# No disk is as large.
MAX_BYTES = 1 << 62
# What a file outside says of its bytes: location, offset, length and a checksum.
MAX_ENTRIES = 16
# The longest name that file systems take.
MAX_FILE_NAME = 255
# Separators of folders, drives and streams, on any system.
SEPARATORS = frozenset("/\\:\0")


@dataclass(frozen=True)
class OnnxTensor:
    """One initializer: its shape, its element type as ONNX numbers it, and where its bytes lie.

    location: the name of the file that they lie in, beside the ONNX; None for the ONNX itself.
    offset: in that file; None where the numbers are not raw, but in a field of their own type.
    n_bytes: of the raw numbers; 0 for a type whose size is not known.
    """

    name: str
    shape: Shape
    data_type: int
    n_bytes: int
    location: str | None
    offset: int | None
    _file: Callable[[str | None], MappedFile] = field(repr=False, compare=False)

    @property
    def type_name(self) -> str:
        """ONNX's name of its element type, or its number."""
        return type_name(self.data_type)

    @property
    def raw(self) -> Bytes:
        """Its bytes, a view of the mapped file; raises FormatError if they are not there."""
        file = self._file(self.location)
        if self.offset is None:
            raise FormatError(f"{file.path}: {shown(self.name)} is not stored as raw bytes")
        end = self.offset + self.n_bytes
        if end > len(file):
            raise FormatError(
                f"{file.path}: holds {len(file):,} bytes, and {shown(self.name)} ends at byte "
                f"{end:,}; copy the file again, or export the model again"
            )
        return file.view(self.offset, self.n_bytes)


@dataclass(frozen=True)
class OnnxValue:
    """An input or output. data_type: 0 for what is no tensor. dims: None where nothing is said.

    A dimension is a number, or the name of one that a run decides, "?" where it has none.
    """

    name: str
    data_type: int
    dims: tuple[int | str, ...] | None

    def __str__(self) -> str:
        """Type and shape as `FLOAT [T, 64]`."""
        if self.dims is None:
            return type_name(self.data_type)
        return f"{type_name(self.data_type)} [{', '.join(shown(str(dim)) for dim in self.dims)}]"


def type_name(data_type: int) -> str:
    """ONNX's name of an element type, or its number."""
    return DATA_TYPES[data_type][0] if data_type in DATA_TYPES else f"type {data_type}"


def is_plain_name(location: str) -> bool:
    """Can it name a file in the same folder, and nothing else on any system?"""
    return (
        0 < len(location.encode()) <= MAX_FILE_NAME
        and location not in (".", "..")
        and location.isprintable()
        and not SEPARATORS & set(location)
    )


@dataclass
class _TensorFields:
    """What the fields of a TensorProto say, as they come."""

    name: str = ""
    data_type: int = 0
    dims: list[int] = field(default_factory=list)
    raw: Field | None = None
    is_external: bool = False
    entries: dict[str, str] = field(default_factory=dict)
    n_typed_bytes: int = 0

    def take(self, wire: Wire, found: Field) -> None:
        """One more field; raises FormatError."""
        if found.number == DIMS:
            for dim in wire.integers(found):
                self.dims.append(dim)
                if len(self.dims) > MAX_DIMENSIONS:
                    raise wire.fail(f"{shown(self.name)} has more than {MAX_DIMENSIONS} dimensions")
        elif found.number == DATA_TYPE:
            self.data_type = found.value
        elif found.number == NAME:
            self.name = wire.text(found, "a tensor's name")
        elif found.number == RAW:
            self.raw = found
        elif found.number == DATA_LOCATION:
            self.is_external = found.value == EXTERNAL
        elif found.number == EXTERNAL_DATA:
            wire.require_kind(found, LENGTH, "a tensor")
            # StringStringEntryProto: key 1, value 2.
            parts, _ = wire.singles(found, "a tensor's place", {1: LENGTH, 2: LENGTH})
            texts = {number: wire.text(text, "a place") for number, text in parts.items()}
            self.entries[texts.get(1, "")] = texts.get(2, "")
            if len(self.entries) > MAX_ENTRIES:
                raise wire.fail(
                    f"{shown(self.name)} has more than {MAX_ENTRIES} words on its place"
                )
        elif found.number in TYPED:
            # Numbers may stand one by one, too.
            self.n_typed_bytes += max(1, found.end - found.start)


def read_tensor(wire: Wire, part: Field, file: Callable[[str | None], MappedFile]) -> OnnxTensor:
    """A TensorProto; raises FormatError. file: gives the file of a location."""
    seen: set[int] = set()
    kinds = {DATA_TYPE: VARINT, NAME: LENGTH, RAW: LENGTH, DATA_LOCATION: VARINT}
    said = _TensorFields()
    for found in wire.fields(part.start, part.end):
        if found.number in kinds:
            wire.require_kind(found, kinds[found.number], "a tensor")
            wire.single(seen, found, "a tensor")
        said.take(wire, found)
    name, shape, data_type = said.name, tuple(said.dims), said.data_type
    if not name:
        raise wire.fail("it holds a tensor without a name")
    n_bytes = bytes_of(wire, name, shape, data_type)
    location: str | None = None
    offset: int | None = None
    if said.is_external:
        location = said.entries.get("location", "")
        offset = whole_number(wire, name, said.entries, "offset") or 0
        length = whole_number(wire, name, said.entries, "length")
        if length is not None:
            require_bytes(wire, name, shape, data_type, length)
            n_bytes = length
    elif said.raw is not None:
        offset, n_bytes = said.raw.start, said.raw.end - said.raw.start
        require_bytes(wire, name, shape, data_type, n_bytes)
    elif math.prod(shape) > said.n_typed_bytes * MOST_PER_BYTE:
        raise wire.fail(f"{shown(name)} is {list(shape)}, and holds {said.n_typed_bytes:,} bytes")
    return OnnxTensor(name, shape, data_type, n_bytes, location, offset, file)


def bytes_of(wire: Wire, name: str, shape: Shape, data_type: int) -> int:
    """What a tensor takes as raw bytes, 0 if that is not known; raises FormatError."""
    bits = DATA_TYPES[data_type][1] if data_type in DATA_TYPES else 0
    n_bytes = -(-math.prod(shape) * max(bits, 1) // BITS)
    # Each by itself, too: with a zero among them the product says nothing.
    if min(shape, default=0) < 0 or max((*shape, n_bytes)) > MAX_BYTES:
        raise wire.fail(f"{shown(name)} is {list(shape)}, which no file holds")
    return n_bytes if bits else 0


def require_bytes(wire: Wire, name: str, shape: Shape, data_type: int, n_bytes: int) -> None:
    """Raise FormatError if so many bytes are not what a tensor needs, as far as that is known."""
    needed = bytes_of(wire, name, shape, data_type)
    is_known = DATA_TYPES.get(data_type, ("", 0))[1] > 0
    if is_known and n_bytes != needed:
        raise wire.fail(
            f"{shown(name)} holds {n_bytes:,} bytes; {type_name(data_type)} {list(shape)} needs "
            f"{needed:,}"
        )
    if not is_known and math.prod(shape) > n_bytes * BITS:
        raise wire.fail(f"{shown(name)} is {list(shape)}, and holds {n_bytes:,} bytes")


def whole_number(wire: Wire, name: str, entries: dict[str, str], key: str) -> int | None:
    """A number that stands as a text; None where it does not stand. Raises FormatError."""
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_BYTES)):
        raise wire.fail(f"the {key} of {shown(name)} is {shown(text)}, not a number of bytes")
    return int(text)


def read_value(wire: Wire, part: Field) -> OnnxValue:
    """A ValueInfoProto: name 1, type 2; raises FormatError."""
    parts, _ = wire.singles(part, "an input", {1: LENGTH, 2: LENGTH})
    name = wire.text(parts[1], "an input's name") if 1 in parts else ""
    if 2 not in parts:
        return OnnxValue(name, 0, None)
    # TypeProto: tensor_type 1, which is a TypeProto.Tensor: elem_type 1, shape 2.
    tensor = wire.singles(parts[2], "a type", {1: LENGTH})[0].get(1)
    if tensor is None:
        return OnnxValue(name, 0, None)
    shape, numbers = wire.singles(tensor, "a type", {1: VARINT, 2: LENGTH})
    dims = tuple(read_dims(wire, shape[2])) if 2 in shape else None
    return OnnxValue(name, numbers.get(1, 0), dims)


def read_dims(wire: Wire, shape: Field) -> list[int | str]:
    """A TensorShapeProto: dim 1, each with its value 1 or its name 2; raises FormatError."""
    dims: list[int | str] = []
    for dim in wire.known(shape.start, shape.end, {1: LENGTH}, "a shape"):
        names, values = wire.singles(dim, "a dimension", {1: VARINT, 2: LENGTH})
        symbol = wire.text(names[2], "a dimension's name") if 2 in names else ""
        dims.append(signed(values[1]) if 1 in values else symbol or "?")
        if len(dims) > MAX_DIMENSIONS:
            raise wire.fail(f"an input has more than {MAX_DIMENSIONS} dimensions")
    return dims
