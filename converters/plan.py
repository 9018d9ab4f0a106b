"""What a conversion will write, decided before anything is written."""

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.arch import Role, architecture_of
from rwkv_edge.converters.arch import AsStored, Source
from rwkv_edge.converters.gguf_file import GgufHeader, PlannedTensor, header_bytes, padded
from rwkv_edge.converters.model_source import ModelSource
from rwkv_edge.converters.tokenizers import EmbeddedTokenizer, choose_tokenizer
from rwkv_edge.converters.weight_types import format_of, wanted_format, weight_type_of
from rwkv_edge.hyperparameters import Hyperparameters


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
    model: ModelSource, weight_type: str, tokenizer: str | Path | None = None
) -> ConversionPlan:
    """Choose the format of every tensor and the tokenizer; raises RwkvEdgeError.

    weight_type, tokenizer: as `convert` takes them.
    """
    require_weight_type(weight_type)
    hp = model.hyperparameters
    own = model.keys.tokenizer(hp.n_vocab) if model.keys and tokenizer is None else None
    words = own or choose_tokenizer(model.files[0], hp.n_vocab, tokenizer)
    architecture = architecture_of(hp.version)
    tensors = planned_tensors(hp, weight_type)
    # A tuned state that the user gives takes the place of one in the GGUF.
    carried = (
        {k: v for k, v in model.keys.general.items() if k not in model.own_keys}
        if model.keys
        else {}
    )
    header = GgufHeader(
        architecture=architecture.name,
        name=model.name,
        weight_type=weight_type,
        metadata={**architecture.gguf_metadata(hp), **model.own_keys},
        tokenizer=words,
        n_vocab=hp.n_vocab,
        tensors=tensors,
        carried=carried,
    )
    notes = (*model.notes, *notes_on(tensors, weight_type, words, hp))
    return ConversionPlan(model, header, notes)


def planned_tensors(hyperparameters: Hyperparameters, weight_type: str) -> list[PlannedTensor]:
    """Every tensor of a model's file in this weight type, in file order."""
    specs = architecture_of(hyperparameters.version).tensors(hyperparameters)
    return [PlannedTensor(spec, format_of(spec, weight_type)) for spec in specs]


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


def notes_on(
    tensors: list[PlannedTensor], weight_type: str, words: EmbeddedTokenizer, hp: Hyperparameters
) -> Iterator[str]:
    """What the user did not ask for but got."""
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
    if words.n_ids < hp.n_vocab and not words.is_padded_always:
        yield f"the vocabulary has {words.n_ids} ids of {hp.n_vocab}: the rest is padding"
