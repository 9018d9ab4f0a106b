"""Shapes, sizes and tables as people read them: the same for files that are and files to come."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rwkv_edge.apps import console
from rwkv_edge.apps.inspection.schema import TypeTotal
from rwkv_edge.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from rwkv_edge.runtime.footprint import MemoryEstimate


def shape_facts(hp: Hyperparameters) -> dict[str, str]:
    """The hyperparameters; those that only this version has come last, by their names."""
    heads = f"{hp.n_head:,} heads of {hp.head_size:,}" if hp.n_head > 1 else "no heads"
    facts = {
        "model": f"RWKV-{hp.version}",
        "shape": f"{hp.n_layer:,} layers of {hp.n_embd:,}, {heads}, channel mix {hp.n_ffn:,}",
    }
    common = {field.name for field in dataclasses.fields(Hyperparameters)}
    own = [field.name for field in dataclasses.fields(hp) if field.name not in common]
    if own:
        facts["further"] = ", ".join(f"{name} {getattr(hp, name):,}" for name in own)
    return facts | {"vocabulary": f"{hp.n_vocab:,} ids"}


def memory_facts(memory: "MemoryEstimate | None") -> dict[str, str]:
    """What it takes to run a model, and of what that is made; nothing for None."""
    size = console.human_bytes
    if memory is None:
        return {}
    facts = {
        "memory": f"{size(memory.resident)} to run it: weights {size(memory.weights)}, "
        f"a state {size(memory.state)},",
        "": f"scratch {size(memory.scratch)}, the program {size(memory.program)}",
    }
    if memory.mapped:
        facts["tables"] = f"{size(memory.mapped)} stay in the file, read by rows"
    return facts


def write_types(types: Sequence[TypeTotal]) -> None:
    """A table of what tensors are stored as, below what stands before it."""
    print()
    console.write_table(
        ("type", "tensors", "size"),
        [(t.dtype, f"{t.n_tensors:,}", console.human_bytes(t.n_bytes)) for t in types],
    )


def memory_in_words(memory: "MemoryEstimate | None") -> str:
    """The sum alone."""
    return "-" if memory is None else console.human_bytes(memory.resident)
