"""Adapters and tuned states: recognised by the names of their tensors, as RWKV-PEFT writes them."""

import re
import shlex
from dataclasses import dataclass, replace

from rwkv_edge.apps.inspection.schema import FileInfo, TensorInfo

# What wrappers put before a name, and what the library peft puts behind it.
WRAPPER = re.compile(r"^(?:base_model\.|model\.)+")
SUFFIX = ".weight"
LAYER = re.compile(r"blocks\.(\d+)\.")
TUNED_STATE = "time_state"
# Names and numbers that are listed before the rest is counted.
N_SHOWN = 8


@dataclass(frozen=True)
class AdapterKind:
    """title: for people. options: how a conversion takes it. parts: ends of its tensors' names.

    rank_of: the dimension that is the rank, by the part that has it.
    """

    title: str
    options: str
    parts: tuple[str, ...]
    rank_part: str


# The first whose part is met.
ADAPTER_KINDS = (
    AdapterKind(
        "LoRA adapter, or PiSSA",
        "--lora {} --alpha N",
        ("lora_A", "lora_B"),
        "lora_A",
    ),
    AdapterKind(
        "beginning of a PiSSA",
        "--adapter FILE --pissa-init {}",
        ("init_lora_A", "init_lora_B"),
        "init_lora_A",
    ),
    AdapterKind("DiSHA adapter", "--adapter {}", ("disha",), "disha"),
    AdapterKind("DiSHA adapter (bone)", "--adapter {}", ("bone",), "bone"),
)
NOTES = {
    "lora_A": "N is the alpha of its training, which the file does not say; a PiSSA takes "
    "--pissa-init FILE instead",
}


@dataclass(frozen=True)
class Part:
    """One tensor of an adapter: the module that it changes, and what it is of that change."""

    module: str
    part: str
    tensor: TensorInfo


def part_of(tensor: TensorInfo) -> Part:
    """`blocks.0.att.key.lora_A` changes `blocks.0.att.key` by its `lora_A`."""
    plain = WRAPPER.sub("", tensor.name).removesuffix(SUFFIX)
    module, _, part = plain.rpartition(".")
    return Part(module, part, tensor)


def describe_adapter(facts: FileInfo) -> FileInfo | None:
    """What is known of a file of weights, if it is an adapter or a tuned state alone; else None."""
    parts = [part_of(tensor) for tensor in facts.tensors]
    path = shlex.quote(str(facts.path))
    convert = "rwkv-edge convert MODEL"
    for kind in ADAPTER_KINDS:
        own = [part for part in parts if part.part in kind.parts]
        if own:
            note = f" ({NOTES[kind.rank_part]})" if kind.rank_part in NOTES else ""
            return replace(
                facts,
                kind=kind.title,
                use="adapt",
                problem="it is no model by itself",
                advice="merge it into the model that it was trained on: "
                f"{convert} {kind.options.format(path)}{note}",
                details={**facts.details, **details_of(kind, own, parts)},
            )
    states = [part for part in parts if part.part == TUNED_STATE]
    if parts and len(states) == len(parts):
        shape = " x ".join(map(str, states[0].tensor.shape))
        return replace(
            facts,
            kind="tuned state",
            use="adapt",
            problem="it is no model by itself",
            advice=f"give it to the model that it was trained on: {convert} --state {path}",
            details={**facts.details, "layers": str(len(states)), "state of a layer": shape},
        )
    return None


def details_of(kind: AdapterKind, own: list[Part], parts: list[Part]) -> dict[str, str]:
    """Its rank, what it changes, and what else is in the file."""
    ranks = sorted(
        {
            # A block of DiSHA is (r, out), or (in / r, r, r).
            part.tensor.shape[0] if len(part.tensor.shape) == 2 else part.tensor.shape[-1]
            for part in own
            if part.part == kind.rank_part and part.tensor.shape
        }
    )
    modules = sorted({LAYER.sub("", part.module) for part in own})
    layers = {found[1] for part in own if (found := LAYER.match(part.module))}
    details = {
        "rank": first_of(list(map(str, ranks))) or "not said",
        "changes": f"{first_of(modules)}, in {len(layers)} layers",
    }
    states = [part for part in parts if part.part == TUNED_STATE]
    n_others = len(parts) - len(own) - len(states)
    if states:
        details["tuned state"] = f"of {len(states)} layers"
    if n_others:
        details["whole tensors"] = f"{n_others}, which replace the model's"
    return details


def first_of(names: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else ""
    return ", ".join(names[:N_SHOWN]) + more
