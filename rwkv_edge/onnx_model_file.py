"""An ONNX that was checked against its architecture: what the ONNX engine runs."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from rwkv_edge.arch import Role, Shape, TensorSpec
from rwkv_edge.errors import FormatError, UnsupportedModelError, shown
from rwkv_edge.fingerprint import N_DIGITS
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_metadata import ModelMetadata, architecture_in
from rwkv_edge.onnx_parts import OnnxTensor, OnnxValue, type_name
from rwkv_edge.onnx_reader import OnnxFile
from rwkv_edge.quant import BF16, F16, F32, Q4_0, Q8_0, QuantFormat

# Says that this project made the file, and in which arrangement.
FORMAT_KEY = "rwkv_edge.onnx_format"
FORMAT = 1
FINGERPRINT_KEY = "rwkv_edge.fingerprint"
FINGERPRINT = re.compile(f"[0-9a-f]{{{N_DIGITS}}}")
# Element types, as ONNX numbers them.
FLOAT, UINT8, INT64 = 1, 2, 7
PLAIN_FORMATS: dict[int, type[QuantFormat]] = {FLOAT: F32, 10: F16, 16: BF16}
# Quantized weights lie in two initializers; by the bytes that the codes of a block take.
CODES, SCALES = ".codes", ".scales"
BLOCK_FORMATS: dict[int, type[QuantFormat]] = {32: Q8_0, 16: Q4_0}
# The names of all weight types that a file may hold.
HELD_TYPES = tuple(f.__name__ for f in (*PLAIN_FORMATS.values(), *BLOCK_FORMATS.values()))
# What the graph takes and gives beside the state. `logits_from`: the logits of the tokens from this
# position on are given, negative numbers count from the end; NEW: before the name of a state array,
# what it is after the tokens.
TOKENS, LOGITS_FROM, LOGITS, NEW = "tokens", "logits_from", "logits", "new_"
# What a graph's inputs and outputs are: element type, and dimensions; None is whatever a run has.
Wanted = dict[str, tuple[int, tuple[int | None, ...]]]


class OnnxModelFile(ModelMetadata):
    """An open ONNX that `rwkv-edge convert --onnx` wrote; what its graph computes is not looked at.

    Every tensor that its architecture needs is there, with its shape and bytes, and the graph takes
    and gives what its state is. formats: of those tensors, by their GGUF names.

    Raises FormatError, UnsupportedModelError, or OSError.
    """

    def __init__(self, path: str | Path) -> None:
        self.onnx = OnnxFile(path)
        self.path = self.onnx.path
        try:
            try:
                self._check()
            except FormatError as error:
                # The schema knows keys and tensors, not the file that they came from.
                raise FormatError(f"{self.path}: {error}; export it again") from None
            self.onnx.require_external()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        """Everything but the files beside it; a FormatError's message does not name the file."""
        require_format(self.path, self.metadata)
        self.architecture = architecture_in(self.path, self.metadata)
        self._fingerprint = fingerprint_in(self.metadata)
        tensors = self.onnx.tensors
        self._parts: dict[str, tuple[OnnxTensor, ...]] = {n: (t,) for n, t in tensors.items()}
        self._parts |= joined_parts(tensors)
        shapes = {name: shape_of(parts) for name, parts in self._parts.items()}
        self.hyperparameters: Hyperparameters = self.architecture.hyperparameters_from_gguf(
            self.metadata, shapes
        )
        n_layer = self.hyperparameters.n_layer
        if n_layer > len(shapes):
            # Bounded here, before the schema lists the tensors of so many layers.
            raise FormatError(f"it announces {n_layer:,} layers in {len(shapes):,} tensors")
        self.formats: dict[str, type[QuantFormat]] = {
            spec.name: self._checked(spec) for spec in self._specs
        }
        self._check_graph()

    @cached_property
    def _specs(self) -> list[TensorSpec]:
        """The tensors that the graph reads; a GGUF has some more."""
        unread = self.architecture.unread(self.hyperparameters)
        specs = self.architecture.tensors(self.hyperparameters)
        return [spec for spec in specs if spec.name not in unread]

    def _checked(self, spec: TensorSpec) -> type[QuantFormat]:
        """The format of the tensor of this place, which has exactly the shape of its place."""
        parts = self._parts.get(spec.name)
        if parts is None:
            raise FormatError(f"tensor {spec.name} is missing")
        shape = shape_of(parts)
        if shape != spec.shape:
            raise FormatError(
                f"tensor {spec.name} is {list(shape)}; its place needs {list(spec.shape)}"
            )
        found = format_of(parts)
        if found is None:
            raise FormatError(
                f"tensor {spec.name} is {parts[0].type_name}; weights are FLOAT, FLOAT16, "
                "BFLOAT16, or codes with scales"
            )
        if spec.role is Role.VECTOR and found is not F32:
            raise FormatError(f"tensor {spec.name} is {found.__name__}; vectors are not quantized")
        return found

    def _check_graph(self) -> None:
        """Raise FormatError unless it takes tokens and a state, and gives logits and a state."""
        hp = self.hyperparameters
        state: Wanted = {
            name: (FLOAT, shape) for name, shape in self.architecture.state_shapes(hp).items()
        }
        inputs: Wanted = {TOKENS: (INT64, (None,)), **state, LOGITS_FROM: (INT64, (1,))}
        outputs: Wanted = {LOGITS: (FLOAT, (None, hp.n_vocab))}
        outputs |= {NEW + name: wanted for name, wanted in state.items()}
        check_values("input", self.onnx.inputs, inputs)
        check_values("output", self.onnx.outputs, outputs)
        default = self.onnx.tensors.get(LOGITS_FROM)
        if default is not None and (default.data_type, default.shape) != (INT64, (1,)):
            raise FormatError(f"the default of {LOGITS_FROM} is no INT64 [1]")

    @property
    def metadata(self) -> Mapping[str, object]:
        """The properties of the file, as the keys of a GGUF."""
        return self.onnx.metadata

    @property
    def fingerprint(self) -> str:
        """As the GGUF of the same checkpoint has it; computed by who exported the file."""
        return self._fingerprint

    @cached_property
    def file_type(self) -> str:
        """The weight type that most bytes of matrices are in, for people to read."""
        n_bytes: dict[str, int] = {}
        for spec in self._specs:
            if spec.role is Role.MATRIX:
                name = self.formats[spec.name].__name__
                n_bytes[name] = n_bytes.get(name, 0) + self._bytes_of(spec)
        return max(n_bytes, key=lambda name: n_bytes[name])

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one token reads if it reads each matrix whole.

        That is all of them but the embedding and other tables, of which it needs a row.
        """
        return sum(
            self._bytes_of(spec)
            for spec in self._specs
            if spec.role in (Role.MATRIX, Role.LORA) and spec.name != "token_embd.weight"
        )

    def _bytes_of(self, spec: TensorSpec) -> int:
        """What a tensor takes in the file, scales included."""
        return sum(part.n_bytes for part in self._parts[spec.name])

    @property
    def n_parameters(self) -> int:
        """Weights of all tensors that the GGUF has, whatever they are stored in."""
        specs = self.architecture.tensors(self.hyperparameters)
        return sum(math.prod(spec.shape) for spec in specs)

    @property
    def n_bytes(self) -> int:
        """Size of the file, and of the one beside it that holds its weights."""
        return self.onnx.n_bytes

    def require_whole(self) -> None:
        """Raise FormatError if a file of it was cut or written over since it was opened."""
        self.onnx.require_whole()

    def close(self) -> None:
        """Unmap the file."""
        self.onnx.close()


def require_format(path: Path, metadata: Mapping[str, object]) -> None:
    """Raise UnsupportedModelError unless this version knows how the file is arranged."""
    found = metadata.get(FORMAT_KEY)
    if found is None:
        raise UnsupportedModelError(
            f"{path}: is an ONNX that rwkv-edge did not make; convert the checkpoint of the model "
            "with rwkv-edge convert --onnx"
        )
    # Not by `==`: that is true of True and 1.0, and of an array it gives another one.
    if type(found) is not int or found < FORMAT:
        raise FormatError(f"key {FORMAT_KEY} is {shown(found)}, not {FORMAT}")
    if found > FORMAT:
        raise UnsupportedModelError(
            f"{path}: is an ONNX of format {found}, made by a newer rwkv-edge; this one runs "
            f"format {FORMAT}; upgrade it, or export the model again"
        )


def joined_parts(tensors: Mapping[str, OnnxTensor]) -> dict[str, tuple[OnnxTensor, OnnxTensor]]:
    """Codes and scales by the name of the tensor that they make; raises FormatError."""
    joined: dict[str, tuple[OnnxTensor, OnnxTensor]] = {}
    for name, codes in tensors.items():
        if not name.endswith(CODES):
            continue
        whole = name.removesuffix(CODES)
        scales = tensors.get(whole + SCALES)
        if scales is None:
            raise FormatError(f"tensor {shown(whole)} has codes, but no scales")
        if whole in tensors:
            raise FormatError(f"it holds the tensor {shown(whole)} twice")
        # A row of codes may be cut into its blocks, or be one.
        n_rows, *n_codes = codes.shape or (0,)
        row_bytes = math.prod(n_codes)
        n_blocks = scales.shape[-1] if scales.shape else 0
        if (
            (codes.data_type, scales.data_type) != (UINT8, FLOAT)
            or scales.shape != (n_rows, n_blocks)
            or not n_blocks
            or n_codes not in ([row_bytes], [n_blocks, row_bytes // n_blocks])
            or row_bytes not in [n_blocks * n_bytes for n_bytes in BLOCK_FORMATS]
        ):
            raise FormatError(
                f"tensor {shown(whole)} has {codes.type_name} {list(codes.shape)} for codes and "
                f"{scales.type_name} {list(scales.shape)} for scales, which do not fit"
            )
        joined[whole] = codes, scales
    return joined


def format_of(parts: tuple[OnnxTensor, ...]) -> type[QuantFormat] | None:
    """What weights are stored as; None for a type that they never are."""
    if len(parts) == 1:
        return PLAIN_FORMATS.get(parts[0].data_type)
    codes, scales = parts
    return BLOCK_FORMATS[math.prod(codes.shape[1:]) // scales.shape[1]]


def shape_of(parts: tuple[OnnxTensor, ...]) -> Shape:
    """The shape of the weights, whatever their codes are arranged in."""
    if len(parts) == 1:
        return parts[0].shape
    found = format_of(parts)
    assert found is not None
    n_rows, n_blocks = parts[1].shape
    return (n_rows, n_blocks * found.block_len)


def check_values(what: str, found: Iterable[OnnxValue], wanted: Wanted) -> None:
    """Raise FormatError unless the inputs or outputs are these, in any order."""
    by_name = {value.name: value for value in found}
    for name, (data_type, dims) in wanted.items():
        value = by_name.pop(name, None)
        expected = ", ".join("any" if dim is None else str(dim) for dim in dims)
        if value is None:
            raise FormatError(f"{what} {name} is missing")
        if value.data_type != data_type or not fits(value.dims, dims):
            raise FormatError(
                f"{what} {name} is {value}; its model needs {type_name(data_type)} [{expected}]"
            )
    if by_name:
        raise FormatError(f"it has an {what} {shown(next(iter(by_name)))}, which none has")


def fits(dims: tuple[int | str, ...] | None, wanted: tuple[int | None, ...]) -> bool:
    """Is each a dimension that is named where any will do, and the wanted number elsewhere?"""
    if dims is None or len(dims) != len(wanted):
        return False
    pairs = zip(dims, wanted, strict=True)
    return all(isinstance(dim, str) if want is None else dim == want for dim, want in pairs)


def fingerprint_in(metadata: Mapping[str, object]) -> str:
    """The fingerprint that the exporter computed; raises FormatError."""
    found = metadata.get(FINGERPRINT_KEY)
    if not isinstance(found, str) or not FINGERPRINT.fullmatch(found):
        raise FormatError(f"key {FINGERPRINT_KEY} is {shown(found)}, no fingerprint")
    return found
