"""What a conversion will write, decided before anything is written."""

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.arch import Role, architecture_of
from rwkv_edge.converters.arch import AsStored, Source, Unchanged
from rwkv_edge.converters.gguf_file import GgufHeader, PlannedTensor, header_bytes, padded
from rwkv_edge.converters.model_source import ModelSource
from rwkv_edge.converters.tokenizers import EmbeddedTokenizer, choose_tokenizer
from rwkv_edge.converters.weight_types import (
    WEIGHT_TYPES,
    format_of,
    wanted_format,
    weight_type_of,
)
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import F32, QuantFormat


@dataclass(frozen=True)
class ConversionPlan:
    """Every tensor of the file to come, and its header.

    notes: sentences for the user, what he did not ask for but gets; often none.
    """

    model: ModelSource
    header: GgufHeader
    notes: tuple[str, ...]

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those of the model."""
        return self.model.hyperparameters

    @property
    def tensors(self) -> list[PlannedTensor]:
        """In file order."""
        return self.header.tensors

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors, padding and header not counted."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def file_bytes(self) -> int:
        """The size of the file, exactly."""
        return header_bytes(self.header) + padded_bytes(self.tensors)


def plan_conversion(
    model: ModelSource, weight_type: str | None, tokenizer: str | Path | None = None
) -> ConversionPlan:
    """Choose the format of every tensor and the tokenizer; raises RwkvEdgeError.

    weight_type, tokenizer: as `convert` takes them; None keeps what each tensor of a GGUF is.
    """
    hp = model.hyperparameters
    own = model.keys.tokenizer(hp.n_vocab) if model.keys and tokenizer is None else None
    words = own or choose_tokenizer(model.files[0], hp.n_vocab, tokenizer)
    architecture = architecture_of(hp.version)
    if weight_type is None:
        tensors = tensors_as_stored(model)
        chosen_type = weight_type_of_file(model, tensors)
    else:
        require_weight_type(weight_type)
        tensors = planned_tensors(hp, weight_type)
        chosen_type = weight_type
    # A tuned state that the user gives takes the place of one in the GGUF.
    carried = (
        {k: v for k, v in model.keys.general.items() if k not in model.own_keys}
        if model.keys
        else {}
    )
    header = GgufHeader(
        architecture=architecture.name,
        name=model.name,
        weight_type=chosen_type,
        metadata={**architecture.gguf_metadata(hp), **model.own_keys},
        tokenizer=words,
        n_vocab=hp.n_vocab,
        tensors=tensors,
        carried=carried,
    )
    fallbacks = () if weight_type is None else notes_on_fallbacks(tensors, weight_type)
    notes = (*model.notes, *fallbacks, *notes_on_words(words, hp))
    return ConversionPlan(model, header, notes)


def planned_tensors(hyperparameters: Hyperparameters, weight_type: str) -> list[PlannedTensor]:
    """Every tensor of a model's file in this weight type, in file order."""
    specs = architecture_of(hyperparameters.version).tensors(hyperparameters)
    return [PlannedTensor(spec, format_of(spec, weight_type)) for spec in specs]


def tensors_as_stored(model: ModelSource) -> list[PlannedTensor]:
    """Every tensor in the format that it has in its GGUF; what has another source is float32."""
    specs = architecture_of(model.hyperparameters.version).tensors(model.hyperparameters)
    sources = ((spec, model.sources[spec.name]) for spec in specs)
    return [
        PlannedTensor(spec, source.quant if isinstance(source, Unchanged) else F32)
        for spec, source in sources
    ]


def weight_type_of_file(model: ModelSource, tensors: list[PlannedTensor]) -> str:
    """What a GGUF says that it is, if its matrices are that; else what most of them are."""
    n_bytes: Counter[type[QuantFormat]] = Counter()
    for tensor in tensors:
        if tensor.spec.role is Role.MATRIX:
            n_bytes[tensor.quant] += tensor.n_bytes
    most = max(n_bytes, key=lambda quant: n_bytes[quant])
    rows = [row for row in WEIGHT_TYPES.values() if row.most is most]
    said = model.keys.metadata.get("general.file_type") if model.keys else None
    return next((row.name for row in rows if row.file_type == said), rows[0].name)


def padded_bytes(tensors: list[PlannedTensor]) -> int:
    """What tensors take in a file behind its header."""
    return sum(padded(tensor.n_bytes) for tensor in tensors)


def provenance(source: Source, merged: Container[str] = ()) -> str:
    """Where a tensor comes from, for people: what is done, and the names of what it is done to.

    merged: names of the checkpoint's tensors that an adapter changes, which is said.
    """
    parts: list[str] = []
    # Those of every source: they are frozen dataclasses, or have none.
    for value in vars(source).values():
        if isinstance(value, Source):
            parts.append(provenance(value, merged))
        elif isinstance(value, str | int):
            parts.append(f"{value} + adapter" if value in merged else str(value))
        elif isinstance(value, tuple) and all(isinstance(item, str) for item in value):
            parts += (f"{item} + adapter" if item in merged else item for item in value)
    words = ", ".join(parts)
    return words if isinstance(source, AsStored) else f"{type(source).__name__}({words})"


def require_weight_type(weight_type: str) -> None:
    """Raise InputError for a weight type that this version does not write."""
    weight_type_of(weight_type)


def notes_on_fallbacks(tensors: list[PlannedTensor], weight_type: str) -> Iterator[str]:
    """The matrices that are stored otherwise than the user asked for."""
    other = Counter(
        (tensor.quant, wanted_format(tensor.spec, weight_type))
        for tensor in tensors
        if tensor.spec.role is Role.MATRIX
    )
    for (quant, wanted), n in other.items():
        if quant is not wanted:
            many = f"{n} matrices are" if n > 1 else "1 matrix is"
            yield (
                f"{many} {quant.__name__}: {wanted.__name__} needs rows of a multiple of "
                f"{wanted.block_len} weights"
            )


def notes_on_words(words: EmbeddedTokenizer, hp: Hyperparameters) -> Iterator[str]:
    """The ids that no tokenizer makes, unless every such model has them."""
    if words.n_ids < hp.n_vocab and not words.is_padded_always:
        yield f"the vocabulary has {words.n_ids} ids of {hp.n_vocab}: the rest is padding"
