"""`rwkv-edge info`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge.apps import console, options
from rwkv_edge.apps.file_info import describe_file
from rwkv_edge.apps.inspection.schema import EngineInfo, FileInfo, TokenizerInfo, ValueInfo
from rwkv_edge.apps.inspection.words import (
    memory_facts,
    memory_in_words,
    shape_facts,
    write_types,
)
from rwkv_edge.errors import shown

# Inputs and outputs that are listed before the rest is counted.
MAX_VALUES = 16


def info(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Any file of a model, or a folder with one.")
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say what a file is, and what it takes to run.

    A checkpoint, a GGUF, an ONNX, an adapter, a state, a tokenizer: weights are not read.
    """
    found = describe_file(file)
    if as_json:
        console.write_json(found)
    else:
        show(found, tensors)


def show(found: FileInfo, list_tensors: bool) -> None:
    """For a person."""
    container = found.container or ""
    kind = found.kind if container in found.kind else f"{found.kind} ({container})"
    facts = {"file": f"{found.path} ({console.human_bytes(found.n_bytes)})", "kind": kind}
    if found.hyperparameters is not None:
        facts |= shape_facts(found.hyperparameters)
    elif found.version is not None:
        facts["model"] = f"RWKV-{found.version}"
    if found.tokenizer is not None:
        facts["tokenizer"] = tokenizer_in_words(found.tokenizer)
    facts |= found.details
    if found.tensors:
        facts["parameters"] = f"{found.n_parameters:,} in {len(found.tensors):,} tensors"
    facts |= memory_facts(found.memory)
    facts |= engine_facts(found.engines)
    if found.problem is not None:
        facts["problem"] = found.problem
    if found.advice is not None:
        facts["next"] = found.advice
    console.write_facts(facts)
    if found.types:
        write_types(found.types)
    if found.targets:
        show_targets(found)
    show_values("input", found.inputs)
    show_values("output", found.outputs)
    if list_tensors and found.tensors:
        print()
        console.write_table(
            ("tensor", "type", "shape", "bytes"),
            [
                (t.name, t.dtype, " x ".join(map(str, t.shape)), f"{t.n_bytes:,}")
                for t in found.tensors
            ],
        )


def show_targets(found: FileInfo) -> None:
    """What the file can be converted to."""
    print()
    console.write_table(
        ("converted to", "bytes", "size", "memory to run it"),
        [
            (
                target.weight_type,
                f"{target.n_bytes:,}",
                console.human_bytes(target.n_bytes),
                memory_in_words(target.memory),
            )
            for target in found.targets
        ],
    )
    if not all(target.is_exact for target in found.targets):
        print("Sizes are without the tokenizer, which is not there.")


def show_values(what: str, values: Sequence[ValueInfo]) -> None:
    """What a graph takes or gives: the first of them, and how many more; nothing for none."""
    if not values:
        return
    print()
    console.write_table(
        (what, "type", "shape"),
        [
            (
                shown(v.name),
                v.dtype,
                "-" if v.shape is None else shown(" x ".join(map(str, v.shape))),
            )
            for v in values[:MAX_VALUES]
        ],
    )
    if len(values) > MAX_VALUES:
        print(f"and {len(values) - MAX_VALUES:,} more")


def tokenizer_in_words(tokenizer: TokenizerInfo) -> str:
    """Which it is, where it comes from, and what is wrong with it."""
    if tokenizer.kind is None:
        of_other = "" if tokenizer.llama_cpp is None else f" ({tokenizer.llama_cpp})"
        return f"none{of_other}: {tokenizer.problem}"
    words = tokenizer.kind
    if tokenizer.origin not in (None, tokenizer.kind):
        words += f", from {tokenizer.origin}"
    if tokenizer.llama_cpp is not None:
        words += f" (for llama.cpp: {tokenizer.llama_cpp})"
    return words if tokenizer.problem is None else f"{words}; {tokenizer.problem}"


def engine_facts(engines: Sequence[EngineInfo]) -> dict[str, str]:
    """Which engines run the model, and what is in the way of the others."""
    running = [
        engine.name if engine.missing is None else f"{engine.name} (after {engine.missing})"
        for engine in engines
        if engine.problem is None
    ]
    facts = {"engines": ", ".join(running) or "none"} if engines else {}
    return facts | {
        f"not {engine.name}": engine.problem for engine in engines if engine.problem is not None
    }
