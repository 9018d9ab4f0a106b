"""`rwkv-edge info`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge.apps import console, options
from rwkv_edge.apps.file_info import FileInfo, describe_file


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint, GGUF or state file.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say what a file is and holds.

    A checkpoint, a GGUF or a state; the weights themselves are not read.
    """
    found = describe_file(file)
    if as_json:
        console.write_json(found)
    else:
        show(found, tensors)


def show(found: FileInfo, list_tensors: bool) -> None:
    """For a person."""
    facts = {"file": f"{found.path} ({console.human_bytes(found.n_bytes)})", "kind": found.kind}
    if found.hyperparameters is not None:
        hp = dataclasses.asdict(found.hyperparameters)
        facts["model"] = f"RWKV-{hp.pop('version')}"
        facts |= {name: f"{value:,}" for name, value in hp.items()}
        facts["n_head"] = f"{found.hyperparameters.n_head:,}"
    facts |= found.details
    facts["parameters"] = f"{found.n_parameters:,} in {len(found.tensors)} tensors"
    console.write_facts(facts)
    by_type: dict[str, list[int]] = {}
    for tensor in found.tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor.n_bytes)
    console.write_table(
        ("type", "tensors", "size"),
        [
            (name, str(len(sizes)), console.human_bytes(sum(sizes)))
            for name, sizes in by_type.items()
        ],
    )
    if list_tensors:
        console.write_table(
            ("tensor", "type", "shape", "bytes"),
            [
                (t.name, t.dtype, " x ".join(map(str, t.shape)), f"{t.n_bytes:,}")
                for t in found.tensors
            ],
        )
