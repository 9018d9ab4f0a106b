"""What a conversion will write, decided before anything is written."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.arch import Role, architecture_of
from rwkv_edge.converters.gguf_file import GgufHeader, PlannedTensor
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


def plan_conversion(
    model: ModelSource, weight_type: str, tokenizer: str | Path | None = None
) -> ConversionPlan:
    """Choose the format of every tensor and the tokenizer; raises RwkvEdgeError.

    weight_type, tokenizer: as `convert` takes them.
    """
    require_weight_type(weight_type)
    hp = model.hyperparameters
    words = choose_tokenizer(model.path, hp.n_vocab, tokenizer)
    architecture = architecture_of(hp.version)
    tensors = [
        PlannedTensor(spec, format_of(spec, weight_type)) for spec in architecture.tensors(hp)
    ]
    header = GgufHeader(
        architecture=architecture.name,
        name=model.path.stem,
        weight_type=weight_type,
        metadata=architecture.gguf_metadata(hp),
        tokenizer=words,
        n_vocab=hp.n_vocab,
        tensors=tensors,
    )
    return ConversionPlan(model, header, tuple(notes_on(tensors, weight_type, words, hp)))


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
