"""Writes an ONNX model whose weights come piece by piece, and never lie in memory together.

A protobuf message is its fields one behind the other, each of ours behind its number and its
length. All lengths are known before the first byte is written, so the weights can follow as they
come; their order among the other fields is free. The weights lie in the model's own file, or in a
data file beside it.
"""

import contextlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto

from rwkv_edge.atomic_file import atomic_write, remove_leftovers
from rwkv_edge.converters.onnx.stored_weights import Initializer
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.onnx_model_file import FORMAT_KEY
from rwkv_edge.onnx_parts import is_plain_name
from rwkv_edge.onnx_reader import OnnxFile
from rwkv_edge.quant import Bytes

# The most that protobuf's readers take in one message.
MAX_MODEL_BYTES = (1 << 31) - 1
# Of the data file: where a reader may map what begins there, and the least that is worth it.
DATA_ALIGNMENT = 4096
MIN_DATA_BYTES = 1024
# Protobuf's word for a field that stands behind its length.
LENGTH_DELIMITED = 2

# What comes of each weight; None stands where one ends.
Pieces = Iterable[Bytes | None]


class ModelLayout:
    """Where everything of a model to come will lie, to the byte.

    model: nodes, inputs, outputs and constants; weights: the initializers to come, in the order in
    which their bytes do; metadata: keys and values, of which the values may be others in the end,
    but as long. external: whether large weights lie in a data file, as they do in any case where
    protobuf could not hold them; `is_external` says what became of it.
    Raises InputError for a name of a file that a model cannot hold.
    """

    def __init__(
        self,
        path: Path,
        model: ModelProto,
        weights: Sequence[Initializer],
        metadata: Mapping[str, str],
        *,
        external: bool = False,
    ) -> None:
        self.path = path
        self.weights = tuple(weights)
        head = ModelProto()
        head.CopyFrom(model)
        head.ClearField("graph")
        self._head: bytes = head.SerializeToString(deterministic=True)
        self._graph: bytes = model.graph.SerializeToString(deterministic=True)
        self._n_metadata_bytes = len(metadata_fields(metadata))
        self._places: dict[str, int] = {}
        self.data_bytes = 0
        if external or self.model_bytes > MAX_MODEL_BYTES:
            require_plain_name(self.data_path())
            for weight in self.weights:
                if weight.n_bytes >= MIN_DATA_BYTES:
                    self._places[weight.name] = aligned(self.data_bytes)
                    self.data_bytes = aligned(self.data_bytes) + weight.n_bytes

    @property
    def is_external(self) -> bool:
        """Whether there will be a data file."""
        return bool(self._places)

    @property
    def graph_bytes(self) -> int:
        """The length of the one field that holds the nodes and the weights."""
        return len(self._graph) + sum(
            len(self.start_of(weight)) + (0 if weight.name in self._places else weight.n_bytes)
            for weight in self.weights
        )

    @property
    def model_bytes(self) -> int:
        """The size of the model's own file, exactly."""
        return len(self._start()) + self.graph_bytes - len(self._graph) + self._n_metadata_bytes

    def data_path(self, digits: int = 0) -> Path:
        """The data file whose content has these digits."""
        return self.path.with_name(f"{self.path.stem}.{digits:08x}.data")

    @property
    def _unnamed_data(self) -> Path:
        """What the data file is until its content is known."""
        return self.path.with_name(f"{self.path.stem}.data")

    def start_of(self, weight: Initializer, digits: int = 0) -> bytes:
        """What stands of a weight in the graph, up to its numbers where these lie there, too.

        digits: of the data file; whatever they are, the length is the same.
        """
        tensor = TensorProto(dims=weight.shape, data_type=weight.data_type, name=weight.name)
        number = GraphProto.INITIALIZER_FIELD_NUMBER
        place = self._places.get(weight.name)
        if place is None:
            head: bytes = tensor.SerializeToString(deterministic=True)
            head += field_start(TensorProto.RAW_DATA_FIELD_NUMBER, weight.n_bytes)
            return field_start(number, len(head) + weight.n_bytes) + head
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", self.data_path(digits).name),
            ("offset", place),
            ("length", weight.n_bytes),
        ):
            tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))
        whole: bytes = tensor.SerializeToString(deterministic=True)
        return field_start(number, len(whole)) + whole

    def write(self, pieces: Pieces, metadata: Callable[[], Mapping[str, str]]) -> Path | None:
        """Write the model, whole or not at all; gives its data file, if it has one.

        metadata: asked when all pieces have come. What stood under the model's name stays until the
        new one is whole, and takes its data file along when it goes. Raises OSError.
        """
        older = data_file_of(self.path)
        # Of processes that were killed: this one may have no data file, or end before the model.
        for path in (self._unnamed_data, self.path):
            remove_leftovers(path)
        coming = iter(pieces)
        data = self._write_both(coming, metadata) if self.is_external else None
        if data is None:
            with atomic_write(self.path) as file:
                file.write(self._start())
                for weight in self.weights:
                    file.write(self.start_of(weight))
                    for piece in bytes_of(weight, coming):
                        file.write(piece.data)
                require_end(coming)
                file.write(self._end(metadata()))
        if older is not None and older != data:
            with contextlib.suppress(OSError):
                older.unlink()
        return data

    def _write_both(
        self, coming: Iterator[Bytes | None], metadata: Callable[[], Mapping[str, str]]
    ) -> Path:
        """The data file first, under a name that no other content has; then what refers to it."""
        small: dict[str, bytes] = {}
        with atomic_write(self._unnamed_data, lambda: data.name) as file:
            digits = self._write_data(file, coming, small)
            data = self.data_path(digits)
            is_new = not data.exists()
        try:
            with atomic_write(self.path) as file:
                file.write(self._start())
                for weight in self.weights:
                    file.write(self.start_of(weight, digits) + small.get(weight.name, b""))
                file.write(self._end(metadata()))
        except BaseException:
            if is_new:
                with contextlib.suppress(OSError):
                    data.unlink()
            raise
        return data

    def _write_data(
        self, file: BinaryIO, coming: Iterator[Bytes | None], small: dict[str, bytes]
    ) -> int:
        """Large weights into the file, the others into `small`; gives the file's CRC-32."""
        crc = position = 0
        for weight in self.weights:
            place = self._places.get(weight.name)
            if place is None:
                small[weight.name] = b"".join(p.tobytes() for p in bytes_of(weight, coming))
                continue
            gap = bytes(place - position)
            file.write(gap)
            crc = zlib.crc32(gap, crc)
            for piece in bytes_of(weight, coming):
                file.write(piece.data)
                crc = zlib.crc32(piece.data, crc)
            position = place + weight.n_bytes
        require_end(coming)
        return crc

    def _start(self) -> bytes:
        """Everything up to the first weight."""
        graph_start = field_start(ModelProto.GRAPH_FIELD_NUMBER, self.graph_bytes)
        return self._head + graph_start + self._graph

    def _end(self, metadata: Mapping[str, str]) -> bytes:
        """What follows the weights."""
        fields = metadata_fields(metadata)
        assert len(fields) == self._n_metadata_bytes, "the metadata are longer than announced"
        return fields


def varint(number: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, the lowest first; all but the last say
    that more follow.
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field_start(number: int, n_bytes: int) -> bytes:
    """What stands before the content of a field that is so long."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(n_bytes)


def metadata_fields(metadata: Mapping[str, str]) -> bytes:
    """Keys and values as the fields of a model."""
    entries = ModelProto()
    for key, value in metadata.items():
        entries.metadata_props.append(StringStringEntryProto(key=key, value=value))
    fields: bytes = entries.SerializeToString(deterministic=True)
    return fields


def bytes_of(weight: Initializer, coming: Iterator[Bytes | None]) -> Iterator[Bytes]:
    """The pieces of the weight that is next."""
    n_bytes = 0
    for piece in coming:
        if piece is None:
            break
        n_bytes += piece.nbytes
        yield piece
    assert n_bytes == weight.n_bytes, f"{weight.name}: {n_bytes} bytes, not {weight.n_bytes}"


def require_end(coming: Iterator[Bytes | None]) -> None:
    """Run to the end what gives the pieces: it may check something last."""
    for _ in coming:
        raise AssertionError("more pieces than weights")


def require_plain_name(data: Path) -> None:
    """Raise InputError for a data file that a model could not name."""
    try:
        if is_plain_name(data.name):
            return
    except UnicodeEncodeError:
        pass
    raise InputError(
        f"{str(data)!a}: no model can name such a data file; give the model a plain name"
    )


def aligned(n_bytes: int) -> int:
    """Bytes up to the next place where a weight may begin in a data file."""
    return -(-n_bytes // DATA_ALIGNMENT) * DATA_ALIGNMENT


def data_file_of(path: Path) -> Path | None:
    """The data file of the model that stands there, if it has one and it was written here."""
    try:
        with OnnxFile(path) as model:
            locations = model.locations if FORMAT_KEY in model.metadata else []
    except (RwkvEdgeError, OSError):
        return None
    own = re.compile(rf"{re.escape(path.stem)}\.[0-9a-f]{{8}}\.data")
    return next((path.with_name(name) for name in locations if own.fullmatch(name)), None)
