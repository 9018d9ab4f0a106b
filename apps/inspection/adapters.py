"""Adapters and tuned states: what a conversion merges, told by the names of its tensors."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from rwkv_edge.apps.inspection.schema import FileInfo, TensorInfo

if TYPE_CHECKING:
    from rwkv_edge.converters.adapters.keys import Key, Part

# Names and numbers that are listed before the rest is counted.
N_SHOWN = 8
ALONE = "it is no model by itself"
COMMAND = "rwkv-edge convert MODEL"
NEED_ALPHA = (
    "N is the alpha of its training, which the file does not say; a PiSSA takes --pissa-init FILE "
    "instead"
)


def describe_adapter(facts: FileInfo) -> FileInfo | None:
    """What is known of a file of weights, if it is an adapter or a tuned state alone; else None."""
    from rwkv_edge.converters.adapters.keys import KINDS, LOW_RANK, Part, read_key

    keys = {read_key(tensor.name): tensor for tensor in facts.tensors}
    path = shlex.quote(str(facts.path))
    part = next((key.part for key in keys if key.part in KINDS), None)
    if part is not None:
        title, options = KINDS[part]
        own = "THIS" if "THIS" in options else "FILE"
        note = f" ({NEED_ALPHA})" if part in LOW_RANK else ""
        return replace(
            facts,
            kind=f"adapter: {title}",
            use="adapt",
            problem=ALONE,
            advice="merge it into the model that it was trained on: "
            f"{COMMAND} {options.replace(own, path)}{note}",
            details={**facts.details, **details_of(keys, set(KINDS))},
        )
    if keys and all(key.part is Part.STATE for key in keys):
        shape = " x ".join(map(str, facts.tensors[0].shape))
        return replace(
            facts,
            kind="tuned state",
            use="adapt",
            problem=ALONE,
            advice=f"give it to the model that it was trained on: {COMMAND} --state {path}",
            details={**facts.details, "layers": str(len(keys)), "state of a layer": shape},
        )
    return None


def details_of(keys: "dict[Key, TensorInfo]", parts: "set[Part]") -> dict[str, str]:
    """The rank, what is changed, and what else is in the file."""
    from rwkv_edge.converters.adapters.keys import LAYER, Part

    own = [key for key in keys if key.part in parts]
    # Of a pair, A is (rank, in); a block of DiSHA is (r, out), or (in / r, r, r).
    with_rank = (Part.LORA_A, Part.INIT_A, Part.DISHA, Part.BONE)
    shapes = [keys[key].shape for key in own if key.part in with_rank]
    ranks = sorted({shape[-1] if len(shape) == 3 else shape[0] for shape in shapes if shape})
    modules = sorted({LAYER.sub("", key.target).removesuffix(".weight") for key in own})
    layers = {key.layer for key in own}
    details = {
        "rank": first_of([str(rank) for rank in ranks]) or "not said",
        "changes": f"{first_of(modules)}; of {len(layers)} layers",
    }
    n_states = sum(key.part is Part.STATE for key in keys)
    n_whole = len(keys) - len(own) - n_states
    if n_whole:
        details["whole tensors"] = f"{n_whole}, which replace the model's"
    if n_states:
        details["tuned state"] = f"of {n_states} layers"
    return details


def first_of(names: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else ""
    return ", ".join(names[:N_SHOWN]) + more
