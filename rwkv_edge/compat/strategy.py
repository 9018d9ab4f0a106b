"""The official package's strategy strings: which layers run where, and in which precision.

`cuda fp16i8 *10 -> cpu fp32` has two parts. A part is a device, a precision, and how many layers:
`*10`, or `*10+` for ten and all that are left over, or nothing for an equal share of the rest.
The head counts as one layer more.
Source: `RWKV.__init__` of the official `rwkv` package 0.8.32.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rwkv_edge.errors import BackendUnavailableError, InputError

# Nine digits are more layers than there are, and no more than can be computed with at once.
PART = re.compile(
    r"(?P<device>cuda(?::\d{1,9})?|cpu|mps|dml) "
    r"(?P<precision>fp32|fp16|bf16)(?P<quantized>i8|i4|i3)?"
    r"(?: \*(?P<layers>\d{1,9})(?P<streams>\+)?)?"
)
MAX_STRATEGY_LEN = 1000
WANTED = 'wanted parts such as "cpu fp32", "cuda fp16i8 *10" or "cuda fp16 *10+", joined by "->"'

# Devices that a layer can run on here.
DEVICES = frozenset({"cpu"})
# What weights are stored in, by precision and quantization.
WEIGHT_TYPES = {
    ("fp32", ""): "F32",
    ("fp16", ""): "F16",
    ("bf16", ""): "BF16",
    ("fp32", "i8"): "Q8_0",
    ("fp16", "i8"): "Q8_0",
    ("bf16", "i8"): "Q8_0",
}


@dataclass(frozen=True)
class StrategyPart:
    """One part of a strategy.

    device: "cpu", "cuda", "cuda:1", "mps" or "dml". precision: "fp32", "fp16" or "bf16";
    quantized: "i8", "i4", "i3" or "". n_layers: None where it is not said; streams: takes what the
    other parts leave over.
    """

    device: str
    precision: str
    quantized: str = ""
    n_layers: int | None = None
    streams: bool = False

    @property
    def stored_as(self) -> str:
        """Precision and quantization as they stand in the strategy: "fp16i8"."""
        return self.precision + self.quantized

    @property
    def weight_type(self) -> str:
        """The weight type of a GGUF: "F32" and so on. Raises InputError for i4 and i3."""
        found = WEIGHT_TYPES.get((self.precision, self.quantized))
        if found is None:
            raise InputError(
                f'strategy "{self}": the official package reads {self.quantized} and stores plain '
                f'{self.precision}; say "{self.device} {self.precision}", or for 4 bits run '
                "`rwkv-edge convert` with --q4 and load the GGUF"
            )
        return found

    def __str__(self) -> str:
        return f"{self.device} {self.stored_as}"


def parse_strategy(strategy: str) -> list[StrategyPart]:
    """The parts of a strategy, in order; raises InputError for anything else than a strategy."""
    if not isinstance(strategy, str) or len(strategy) > MAX_STRATEGY_LEN:
        raise InputError(f"a strategy is a short text, not {type(strategy).__name__}; {WANTED}")
    parts = []
    for text in strategy.split("->"):
        match = PART.fullmatch(text.strip(" "))
        if match is None:
            raise InputError(f"strategy {strategy!r}: {text.strip()!r} is no part of one; {WANTED}")
        n_layers = match["layers"]
        parts.append(
            StrategyPart(
                device=match["device"],
                precision=match["precision"],
                quantized=match["quantized"] or "",
                n_layers=None if n_layers is None else int(n_layers),
                streams=match["streams"] is not None,
            )
        )
    return parts


def layers_of(parts: Sequence[StrategyPart], n_layer: int) -> list[StrategyPart]:
    """The part that each layer belongs to: n_layer layers, and the head last.

    Parts that say how many layers take theirs in order, while there are some. What is left goes to
    the last part that streams, else in equal shares to the parts that say nothing, else to the
    last part.
    """
    n_free = n_layer + 1
    counts = [0] * len(parts)
    for i, part in enumerate(parts):
        counts[i] = min(part.n_layers or 0, n_free)
        n_free -= counts[i]
    streaming = [i for i, part in enumerate(parts) if part.streams]
    silent = [i for i, part in enumerate(parts) if part.n_layers is None]
    if streaming:
        counts[streaming[-1]] += n_free
    elif silent:
        for n_shares, i in zip(range(len(silent), 0, -1), silent, strict=True):
            counts[i] = n_free // n_shares
            n_free -= counts[i]
    else:
        counts[-1] += n_free
    return [part for part, n in zip(parts, counts, strict=True) for _ in range(n)]


def runnable_weight_type(strategy: str, layers: Sequence[StrategyPart]) -> str:
    """The one weight type that all layers have.

    Raises BackendUnavailableError for a device that is not there, InputError for layers of
    different precisions; both say what would work.
    """
    used = list(dict.fromkeys((part.device, part.precision, part.quantized) for part in layers))
    parts = [StrategyPart(*key) for key in used]
    precisions = dict.fromkeys(part.stored_as for part in parts)
    instead = " or ".join(f'"cpu {precision}"' for precision in precisions)
    for part in parts:
        if part.device not in DEVICES:
            raise BackendUnavailableError(
                f'strategy "{strategy}": {part} cannot be had: this package runs models on the CPU '
                f"alone; use strategy {instead}"
            )
    weight_types = list(dict.fromkeys(part.weight_type for part in parts))
    if len(weight_types) > 1:
        raise InputError(
            f'strategy "{strategy}": here all layers have one precision; use strategy {instead}'
        )
    return weight_types[0]
