"""Adapter files: opened, compared with the base that they are for, and taken apart into changes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rwkv_edge.converters.adapters.keys import BLOCKS, INITIAL, LOW_RANK, Key, Part, read_key
from rwkv_edge.converters.adapters.sources import (
    DeltaSource,
    DishaSource,
    Factors,
    LoraSource,
    Replacement,
)
from rwkv_edge.converters.arch.base import Shape, Shapes, squeezed
from rwkv_edge.converters.checkpoints import Checkpoint
from rwkv_edge.errors import FormatError, InputError

# Names that a message repeats of each kind of trouble.
N_SHOWN = 6
# No training uses more, and float32 has room for its products.
MAX_ALPHA = 1e6


@dataclass(frozen=True)
class Adapter:
    """An adapter to merge; its names say whether it is LoRA, PiSSA or DiSHA.

    alpha: that of a LoRA's training, which its file does not hold. pissa_init: the `init_pissa.pth`
    of a PiSSA's training. ignore_orphans: leave out tensors of layers that the base has not.
    """

    path: str | Path
    alpha: float | None = None
    pissa_init: str | Path | None = None
    ignore_orphans: bool = False


@dataclass(frozen=True)
class TunedState:
    """A file that holds a tuned state alone: `blocks.N.att.time_state`."""

    path: str | Path


@dataclass
class Changes:
    """What one file does to a base, by the name of its tensor; a replacement comes first."""

    replacements: dict[str, Replacement] = field(default_factory=dict)
    deltas: dict[str, DeltaSource] = field(default_factory=dict)


class Misfits:
    """Everything in a file that fits no place, kept for one message that lists it."""

    def __init__(self, path: Path, base: Path) -> None:
        self._path = path
        self._base = base
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Keep a tensor's name under what is wrong with it."""
        self._names.setdefault(reason, []).append(name)

    def raise_if_any(self) -> None:
        """Raise FormatError with all of it."""
        if not self._names:
            return
        parts = []
        for reason, names in self._names.items():
            more = f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else ""
            parts.append(f"{', '.join(names[:N_SHOWN])}{more}: {reason}")
        raise FormatError(
            f"{self._path}: does not fit {self._base}: {'; '.join(parts)}; "
            "name the model that it was trained on"
        )


def changes_of(
    adapter: Adapter, file: Checkpoint, init: Checkpoint | None, base: Path, shapes: Shapes
) -> Changes:
    """What an open adapter does to a base of these shapes. Raises FormatError, InputError.

    init: the open file of `adapter.pissa_init`.
    """
    keys = [read_key(name) for name in file.names()]
    require_options_that_fit(adapter, keys)
    if {key.target for key in keys if key.part is Part.WHOLE} >= set(shapes):
        raise FormatError(
            f"{file.path}: is a whole model of the base's shape, not an adapter; convert it alone"
        )
    return _Fitting(adapter, file, init, base, shapes).changes(keys)


def require_options_that_fit(adapter: Adapter, keys: list[Key]) -> None:
    """Raise InputError unless alpha and pissa_init are what these tensors need."""
    path, alpha, init = adapter.path, adapter.alpha, adapter.pissa_init
    has_low_rank = any(key.part in LOW_RANK for key in keys)
    if any(key.part in INITIAL for key in keys):
        raise InputError(
            f"{path}: is the beginning of a PiSSA; name the adapter that the training saved, and "
            "this file with --pissa-init"
        )
    if alpha is not None and init is not None:
        raise InputError(f"{path}: alpha is for a LoRA and --pissa-init for a PiSSA; leave one out")
    if alpha is not None and not 0 < abs(alpha) <= MAX_ALPHA:
        raise InputError(
            f"{path}: alpha {alpha}: wanted a number other than 0, up to {MAX_ALPHA:g}, as in its "
            "training"
        )
    if has_low_rank and alpha is None and init is None:
        raise InputError(
            f"{path}: is a LoRA, and its file does not say the alpha that it was trained with; add "
            "--alpha N, or --pissa-init FILE if it is a PiSSA"
        )
    if not has_low_rank and (alpha is not None or init is not None):
        option = "--pissa-init" if alpha is None else "--alpha"
        raise InputError(f"{path}: holds no LoRA, so there is no use for {option}; leave it out")


class _Fitting:
    """Compares the tensors of one adapter with those of its base."""

    def __init__(
        self,
        adapter: Adapter,
        file: Checkpoint,
        init: Checkpoint | None,
        base: Path,
        shapes: Shapes,
    ) -> None:
        self._adapter = adapter
        self._file = file
        self._init = init
        self._shapes = shapes
        self._misfits = Misfits(file.path, base)
        layers = {key.layer for key in map(read_key, shapes)}
        self._n_layer = len(layers - {None})

    def changes(self, keys: list[Key]) -> Changes:
        """All changes; raises FormatError with everything that fits nowhere."""
        found = Changes()
        pairs: dict[str, dict[Part, str]] = {}
        for key in self._known(keys):
            if key.part in LOW_RANK:
                pairs.setdefault(key.target, {})[key.part] = key.name
            elif key.part in BLOCKS:
                if self._disha_fits(key):
                    found.deltas[key.target] = DishaSource(self._file, key.name)
            elif key.part is Part.STATE or self._replacement_fits(key):
                found.replacements[key.target] = Replacement(self._file, key.name)
        initial = self._initial_pairs(set(pairs))
        for target, pair in pairs.items():
            source = self._lora(target, pair, initial)
            if source is not None:
                found.deltas[target] = source
        self._misfits.raise_if_any()
        return found

    def _known(self, keys: list[Key], where: str = "") -> Iterator[Key]:
        """The tensors that change one of the base; the others are kept as misfits."""
        for key in keys:
            if key.target in self._shapes or (
                key.part is Part.STATE and (key.layer or 0) < self._n_layer
            ):
                yield key
            elif key.layer is not None and key.layer >= self._n_layer:
                if not self._adapter.ignore_orphans:
                    self._misfits.add(
                        f"the base has only {self._n_layer} layers (RWKV-PEFT saves such tensors "
                        "where its n_layer was too large; --ignore-orphans leaves them out)",
                        where + key.name,
                    )
            else:
                self._misfits.add("the base has no such tensor", where + key.name)

    def _initial_pairs(self, targets: set[str]) -> dict[str, dict[Part, str]]:
        """The tensors of a PiSSA's other file by what they belong to; they must be for the same."""
        pairs: dict[str, dict[Part, str]] = {}
        if self._init is None:
            return pairs
        where = f"{self._init.path.name}: "
        keys = [read_key(name) for name in self._init.names()]
        for key in keys:
            if key.part not in INITIAL:
                self._misfits.add("wanted init_lora_A and init_lora_B alone", where + key.name)
        for key in self._known([key for key in keys if key.part in INITIAL], where):
            if key.target in targets:
                pairs.setdefault(key.target, {})[key.part] = key.name
            else:
                self._misfits.add("no lora_A and lora_B for it", where + key.name)
        return pairs

    def _lora(
        self, target: str, pair: dict[Part, str], initial: dict[str, dict[Part, str]]
    ) -> LoraSource | None:
        """A low-rank pair, checked, or None."""
        factors = self._factors(self._file, target, pair, Part.LORA_A, Part.LORA_B)
        if factors is None:
            return None
        rank = self._file.shape(factors.a)[0]
        if self._init is None:
            assert self._adapter.alpha is not None
            return LoraSource(factors, self._adapter.alpha / rank)
        if target not in initial:
            self._misfits.add(f"no beginning of it in {self._init.path.name}", factors.a)
            return None
        beginning = self._factors(self._init, target, initial[target], Part.INIT_A, Part.INIT_B)
        if beginning is None:
            return None
        initial_rank = self._init.shape(beginning.a)[0]
        if initial_rank != rank:
            self._misfits.add(
                f"another rank in {self._init.path.name}", f"{factors.a} {rank} for {initial_rank}"
            )
            return None
        return LoraSource(factors, 1.0, beginning)

    def _factors(
        self, file: Checkpoint, target: str, pair: dict[Part, str], a_part: Part, b_part: Part
    ) -> Factors | None:
        """Both halves of a pair with shapes that fit, or None."""
        if len(pair) < 2:
            there, missing = (a_part, b_part) if a_part in pair else (b_part, a_part)
            self._misfits.add(f"without its {missing.value}", pair[there])
            return None
        a, b = pair[a_part], pair[b_part]
        a_shape, b_shape, base = file.shape(a), file.shape(b), self._shapes[target]
        rank = a_shape[0] if a_shape else 0
        if len(base) == 2 and rank > 0 and (a_shape, b_shape) == ((rank, base[1]), (base[0], rank)):
            return Factors(file, b, a)
        self._misfits.add(
            "wanted [rank, in] and [out, rank] for [out, in]",
            f"{a} and {b_part.value} {list(a_shape)} and {list(b_shape)} for {list(base)}",
        )
        return None

    def _disha_fits(self, key: Key) -> bool:
        """Is a block or a tile of a shape that the base's matrix can take?"""
        found, base = self._file.shape(key.name), self._shapes[key.target]
        if len(base) == 2 and all(found) and disha_fits(found, base):
            return True
        self._misfits.add(
            "wanted [r, out] or [in / r, r, r] for [out, in]",
            f"{key.name} {list(found)} for {list(base)}",
        )
        return False

    def _replacement_fits(self, key: Key) -> bool:
        """Is a whole tensor of the base's shape? Ones around a vector make no difference."""
        found, base = self._file.shape(key.name), self._shapes[key.target]
        if found == base or (len(squeezed(base)) < 2 and squeezed(found) == squeezed(base)):
            return True
        self._misfits.add("another shape", f"{key.name} {list(found)} for {list(base)}")
        return False


def disha_fits(found: Shape, base: Shape) -> bool:
    """Can D of this shape be merged into a matrix (out, in)? None of its dimensions is zero."""
    n_outputs, n_inputs = base
    if len(found) == 3:
        r = found[1]
        return n_outputs % r == 0 and n_inputs % r == 0 and found == (n_inputs // r, r, r)
    return len(found) == 2 and found[0] <= n_inputs and found[1] == n_outputs
