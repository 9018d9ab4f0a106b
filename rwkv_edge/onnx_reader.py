"""Reading ONNX, from files that may be damaged or made to harm.

`onnx.load` reads the whole file into memory, gigabytes of weights among it, and takes the onnx
package; here the file is mapped, and of its protobuf only that is looked at which says what it is:
nothing is copied but names and metadata, and no length is believed before the bytes are there.
Numbers of fields are those of onnx.proto.
"""

from pathlib import Path
from types import TracebackType

from rwkv_edge.errors import FormatError, shown
from rwkv_edge.mapped_file import MappedFile
from rwkv_edge.onnx_parts import OnnxTensor, OnnxValue, is_plain_name, read_tensor, read_value
from rwkv_edge.onnx_values import decoded, n_values
from rwkv_edge.onnx_wire import LENGTH, VARINT, Field, Wire

SUFFIX = ".onnx"
# Of ModelProto: the kind of each field ...
MODEL_FIELDS = {
    1: VARINT, 2: LENGTH, 3: LENGTH, 4: LENGTH, 5: VARINT, 6: LENGTH, 7: LENGTH, 8: LENGTH,
    14: LENGTH, 20: LENGTH, 25: LENGTH, 26: LENGTH,
}  # fmt: skip
IR_VERSION, PRODUCER_NAME, PRODUCER_VERSION, GRAPH, OPSET, PROPERTY = 1, 2, 3, 7, 8, 14
# ... and of GraphProto.
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
# Each is a few hundred bytes in memory. The largest RWKV has 2,000 tensors, most of them in two.
MAX_TENSORS = 1 << 15
MAX_VALUES = 1 << 12
MAX_PROPERTIES = 1 << 12
MAX_OPSETS = 1 << 8
# Of the outermost layer: properties, functions and a few more.
MOST_PARTS = 1 << 13
# Texts of lists so long take no more in memory than in the file, and are not counted: the tuned
# state of a model of 14 billion weights is 85 MB of them.
LONG_TEXT_BYTES = 4096
MAX_METADATA_VALUES = 1 << 19
# Letters beyond ASCII take up to twelve times their bytes while they are read, all others three.
FOREIGN_WEIGHT = 3


class OnnxFile:
    """An open ONNX: what its graph takes, gives and holds. Close it, or use it as a context.

    metadata: its properties by key, as `onnx_values.decoded` reads them. tensors: the initializers
    of its graph by name; inputs, outputs: in the order of the file. n_nodes: those of the graph
    itself, those inside of them not counted. opsets: versions by domain. producer: what wrote it,
    with its version. Weights in files beside it are opened when they are asked for.

    Raises FormatError for a damaged file, OSError if it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._main = MappedFile(self.path)
        self._beside: dict[str, MappedFile] = {}
        self.metadata: dict[str, object] = {}
        self.tensors: dict[str, OnnxTensor] = {}
        self.inputs: list[OnnxValue] = []
        self.outputs: list[OnnxValue] = []
        self.n_nodes = 0
        self.opsets: dict[str, int] = {}
        self.producer = ""
        self.ir_version = 0
        self._n_metadata_values = 0
        try:
            self._read_model(Wire(self._main.buffer, self.path))
        except BaseException:
            self.close()
            raise

    def _read_model(self, wire: Wire) -> None:
        seen: set[int] = set()
        producer = {PRODUCER_NAME: "", PRODUCER_VERSION: ""}
        for part in wire.known(0, len(self._main), MODEL_FIELDS, "the model"):
            if part.number in (IR_VERSION, GRAPH, PRODUCER_NAME, PRODUCER_VERSION):
                wire.single(seen, part, "the model")
            if part.number == IR_VERSION:
                self.ir_version = part.value
            elif part.number in producer:
                producer[part.number] = wire.text(part, "its producer")
            elif part.number == OPSET:
                self._read_opset(wire, part)
            elif part.number == PROPERTY:
                self._read_property(wire, part)
            elif part.number == GRAPH:
                self._read_graph(wire, part)
        if GRAPH not in seen:
            raise wire.fail("it holds no graph, so it is no ONNX model, or cut off")
        self.producer = " ".join(filter(None, producer.values()))

    def _read_opset(self, wire: Wire, part: Field) -> None:
        """OperatorSetIdProto: domain 1, version 2."""
        texts, numbers = wire.singles(part, "an operator set", {1: LENGTH, 2: VARINT})
        domain = wire.text(texts[1], "a domain") if 1 in texts else ""
        self.opsets[domain or "ai.onnx"] = numbers.get(2, 0)
        if len(self.opsets) > MAX_OPSETS:
            raise wire.fail(f"it has more operator sets than any model, {MAX_OPSETS}")

    def _read_property(self, wire: Wire, part: Field) -> None:
        """StringStringEntryProto: key 1, value 2."""
        texts, _ = wire.singles(part, "a property", {1: LENGTH, 2: LENGTH})
        key = wire.text(texts[1], "a property's key") if 1 in texts else ""
        if key in self.metadata:
            raise wire.fail(f"it holds the property {shown(key)} twice")
        if len(self.metadata) >= MAX_PROPERTIES:
            raise wire.fail(f"it has more properties than any model, {MAX_PROPERTIES:,}")
        self.metadata[key] = self._value(wire, texts[2]) if 2 in texts else ""

    def _value(self, wire: Wire, part: Field) -> object:
        n_bytes = part.end - part.start
        # Weighed below, once it is seen what it is made of.
        text = wire.text(part, "a property", most=n_bytes, weight=0)
        found = n_values(text)
        if not text.isascii() or "\\u" in text:
            wire.count_text(n_bytes * FOREIGN_WEIGHT)
        elif "\\" in text or n_bytes < LONG_TEXT_BYTES * found:
            wire.count_text(n_bytes)
        self._n_metadata_values += found
        if self._n_metadata_values > MAX_METADATA_VALUES:
            raise wire.fail(
                f"its properties hold more values than any model's, {MAX_METADATA_VALUES:,}"
            )
        return decoded(text)

    def _read_graph(self, wire: Wire, graph: Field) -> None:
        kinds = dict.fromkeys((NODE, INITIALIZER, INPUT, OUTPUT), LENGTH)
        for part in wire.known(graph.start, graph.end, kinds, "the graph"):
            if part.number == NODE:
                self.n_nodes += 1
            elif part.number == INITIALIZER:
                tensor = read_tensor(wire, part, self._file)
                if tensor.name in self.tensors:
                    raise wire.fail(f"it holds the tensor {shown(tensor.name)} twice")
                if len(self.tensors) >= MAX_TENSORS:
                    raise wire.fail(f"it has more tensors than any model, {MAX_TENSORS:,}")
                self.tensors[tensor.name] = tensor
            else:
                values = self.inputs if part.number == INPUT else self.outputs
                values.append(read_value(wire, part))
                if len(values) > MAX_VALUES:
                    raise wire.fail(f"it has more inputs than any model, {MAX_VALUES:,}")

    @property
    def locations(self) -> list[str]:
        """The names of the files beside it that weights lie in, mostly one or none."""
        found = (tensor.location for tensor in self.tensors.values())
        return list(dict.fromkeys(location for location in found if location is not None))

    def _file(self, location: str | None) -> MappedFile:
        """The file itself, or one beside it; raises FormatError, OSError."""
        if location is None:
            return self._main
        if location not in self._beside:
            if not is_plain_name(location):
                raise FormatError(
                    f"{self.path}: its weights lie in {shown(location)}; wanted the name of a file "
                    "in its own folder; export it again"
                )
            try:
                # A link is opened, too: caches of downloads are made of them.
                self._beside[location] = MappedFile(self.path.parent / location)
            except FileNotFoundError:
                raise FormatError(
                    f"{self.path}: its weights lie in {location}, which is not there; put that "
                    "file beside it, or export it again"
                ) from None
        return self._beside[location]

    def require_external(self) -> None:
        """Raise FormatError unless all weights that lie beside it are there; OSError."""
        for tensor in self.tensors.values():
            if tensor.location is not None:
                _ = tensor.raw

    @property
    def n_bytes(self) -> int:
        """Size of the file and of those beside it that were opened."""
        return sum(len(file) for file in (self._main, *self._beside.values()))

    def require_whole(self) -> None:
        """Raise FormatError if another program has cut one of its files since they were opened."""
        for file in (self._main, *self._beside.values()):
            file.require_whole()

    def close(self) -> None:
        """Unmap it and what was opened beside it; views that are alive keep what they show."""
        self.tensors = {}
        for file in (self._main, *self._beside.values()):
            file.close()

    def __enter__(self) -> "OnnxFile":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def is_onnx(path: Path) -> bool:
    """Is it one by its name, or by what it holds, as far as the outermost layer says it?

    Raises FormatError for what cannot be opened as a file, OSError.
    """
    return path.suffix.lower() == SUFFIX or looks_like_onnx(path)


def looks_like_onnx(path: Path) -> bool:
    """True if it is all fields of a ModelProto, one of them a graph. Raises FormatError, OSError.

    Protobuf has no magic number; a few bytes of some file may be fields by chance, a whole file of
    them that ends where the last one does is none.
    """
    if path.is_dir() or path.stat().st_size == 0:
        return False
    file = MappedFile(path)
    try:
        fields = list(Wire(file.buffer, path, MOST_PARTS).fields(0, len(file)))
    except FormatError:
        return False
    finally:
        file.close()
    is_known = all(MODEL_FIELDS.get(field.number) == field.kind for field in fields)
    return is_known and any(field.number == GRAPH for field in fields)
