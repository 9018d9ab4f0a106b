"""Which alpha or beginning belongs to which of several adapters."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rwkv_edge.converters.adapters.files import Adapter
from rwkv_edge.converters.adapters.keys import LOW_RANK, read_key
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.errors import InputError

Value = TypeVar("Value")


def choose_adapters(
    paths: Sequence[Path],
    alphas: Sequence[float] = (),
    pissa_inits: Sequence[Path] = (),
    *,
    ignore_orphans: bool = False,
) -> list[Adapter]:
    """Adapters in the order of their paths; alphas or beginnings: one for all, or one for each.

    They go to low-rank adapters alone. Raises InputError where the numbers do not add up,
    FormatError for files that cannot be read.
    """
    if ignore_orphans and not paths:
        raise InputError(
            "--ignore-orphans is for adapters, and there is none; name it by --adapter"
        )
    if alphas and pissa_inits:
        raise InputError(
            "--alpha is for LoRA and --pissa-init for PiSSA: merge both kinds at once from Python, "
            "with convert(..., adapters=[...])"
        )
    low_rank = [path for path in paths if is_low_rank(path)]
    alpha_of = shared_out(alphas, low_rank, "--alpha")
    init_of = shared_out(pissa_inits, low_rank, "--pissa-init")
    chosen = []
    for path in paths:
        has_rank = path in low_rank
        alpha, init = (next(alpha_of), next(init_of)) if has_rank else (None, None)
        chosen.append(Adapter(path, alpha, init, ignore_orphans))
    return chosen


def is_low_rank(path: Path) -> bool:
    """Does a file hold lora_A or lora_B? Raises FormatError."""
    with open_checkpoint(path) as file:
        return any(read_key(name).part in LOW_RANK for name in file.names())


def shared_out(
    values: Sequence[Value], low_rank: Sequence[Path], option: str
) -> Iterator[Value | None]:
    """A value for each adapter in turn: its own, the only one, or None."""
    n = len(low_rank)
    if not values:
        return iter([None] * n)
    if n == 0:
        raise InputError(f"{option} is for a LoRA, and there is none; name it by --lora")
    if len(values) not in (1, n):
        raise InputError(
            f"{option} is given {len(values)} times, and there are {n} low-rank adapters; give it "
            "once for all, or once for each"
        )
    return iter(list(values) * n if len(values) == 1 else values)
