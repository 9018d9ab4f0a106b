"""What the names of an adapter's tensors say: which tensor of the base each of them changes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rwkv_edge.converters.tuned_state import is_tuned_state
from rwkv_edge.errors import FormatError

# What wrappers put before every name; `model.` alone is taken off where a file is opened.
WRAPPER = re.compile(r"^(?:base_model\.|model\.)+")
LAYER = re.compile(r"^blocks\.(\d{1,5})\.")


class Part(Enum):
    """The role of one tensor, by the end of its name where that says it."""

    LORA_A = "lora_A"
    LORA_B = "lora_B"
    INIT_A = "init_lora_A"
    INIT_B = "init_lora_B"
    DISHA = "disha"
    # What DiSHA was called first.
    BONE = "bone"
    STATE = "time_state"
    WHOLE = ""


LOW_RANK = {Part.LORA_A: Part.LORA_B, Part.LORA_B: Part.LORA_A}
INITIAL = {Part.INIT_A: Part.INIT_B, Part.INIT_B: Part.INIT_A}
BLOCKS = (Part.DISHA, Part.BONE)
# How each kind of adapter is called, and how it is handed over.
KINDS = {
    Part.LORA_A: ("a LoRA or PiSSA", "--lora FILE --alpha N"),
    Part.LORA_B: ("a LoRA or PiSSA", "--lora FILE --alpha N"),
    Part.INIT_A: ("the beginning of a PiSSA", "--adapter FILE --pissa-init THIS"),
    Part.INIT_B: ("the beginning of a PiSSA", "--adapter FILE --pissa-init THIS"),
    Part.DISHA: ("a DiSHA", "--adapter FILE"),
    Part.BONE: ("a DiSHA", "--adapter FILE"),
}
SUFFIXES = {part.value: part for part in KINDS}


@dataclass(frozen=True)
class Key:
    """A tensor's name in its file, the base's tensor that it changes, and its part in that."""

    name: str
    target: str
    part: Part

    @property
    def layer(self) -> int | None:
        """The layer that it belongs to."""
        found = LAYER.match(self.target)
        return int(found[1]) if found else None


def read_key(name: str) -> Key:
    """Tell the parts apart; a name without any of them is a whole tensor."""
    plain = WRAPPER.sub("", name)
    if is_tuned_state(plain):
        return Key(name, plain, Part.STATE)
    # The library peft keeps each factor in a layer of its own.
    module, _, suffix = plain.removesuffix(".weight").rpartition(".")
    if module and suffix in SUFFIXES:
        return Key(name, f"{module}.weight", SUFFIXES[suffix])
    return Key(name, plain, Part.WHOLE)


def require_no_adapter(path: Path, names: Iterable[str]) -> None:
    """Raise FormatError, which says how to merge it, if a file to convert is an adapter."""
    keys = [read_key(name) for name in names]
    parts = [key for key in keys if key.part in KINDS]
    if parts:
        kind, how = KINDS[parts[0].part]
        more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
        raise FormatError(
            f"{path}: holds {parts[0].name}{more}: {kind}, which is merged into the model that it "
            f"was trained on: rwkv-edge convert MODEL {how}"
        )
    if keys and all(key.part is Part.STATE for key in keys):
        raise FormatError(
            f"{path}: holds a tuned state alone, which goes with the model that it was trained on: "
            "rwkv-edge convert MODEL --state FILE"
        )
