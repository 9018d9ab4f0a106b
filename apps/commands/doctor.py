"""`rwkv-edge doctor`."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge.apps import console, options
from rwkv_edge.apps.machine import Machine, inspect_machine

# Long enough that a prompt goes through in several blocks, and a compiled tokenizer is used.
WARM_TEXT = "The quick brown fox jumps over the lazy dog. " * 60
WARM_TOKENS = 140
SMALL_BUFFER_BYTES = 1 << 20


def doctor(
    warm: Annotated[
        bool, typer.Option("--warm", help="Compile all kernels now, so that no first run waits.")
    ] = False,
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Remove all compiled kernels.")
    ] = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Show what this CPU and installation can do.

    Its features, the kernels they select, and optional packages.
    """
    if clear_cache:
        from rwkv_edge.jit import clear_kernel_caches

        clear_kernel_caches()
    if warm:
        compile_kernels(threads)
    machine = inspect_machine()
    if as_json:
        console.write_json(machine)
    else:
        show(machine)


def compile_kernels(threads: int | None) -> None:
    """Run the built-in checkpoint once in every format, and once a model of each version."""
    from rwkv_edge import Model
    from rwkv_edge.arch import ARCHITECTURES
    from rwkv_edge.builtin import checkpoint_path
    from rwkv_edge.converters.convert import convert
    from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
    from rwkv_edge.converters.weight_types import WEIGHT_TYPES
    from rwkv_edge.runtime.bandwidth import read_bandwidth

    with (
        tempfile.TemporaryDirectory(prefix="rwkv-edge-") as folder,
        console.progress("compiling kernels") as progress,
    ):
        # One of those that store most matrices alike.
        types = {row.most: name for name, row in WEIGHT_TYPES.items()}
        for done, weight_type in enumerate(types.values()):
            progress(done, len(types))
            path = Path(folder) / f"{weight_type}.gguf"
            convert(checkpoint_path(), path, weight_type, threads=threads)
            with Model.load(path, threads=threads) as model:
                tokens = model.tokenizer.encode(WARM_TEXT)[:WARM_TOKENS]
                _, state = model.forward(tokens, all_logits=True)
                model.forward(tokens[:1], state)
        # Every version, out of checkpoints of halves, and what `bench` measures with.
        for architecture in ARCHITECTURES.values():
            half = Path(folder) / f"{architecture.name}.pth"
            hp = synthetic_hyperparameters(1, 64, n_vocab=256, version=architecture.versions[-1])
            write_synthetic(half, hp, dtype="float16")
            convert(half, half.with_suffix(".gguf"), "F32", threads=threads)
            with Model.load(half.with_suffix(".gguf"), threads=threads) as model:
                model.forward([0])
        read_bandwidth(1, n_bytes=SMALL_BUFFER_BYTES, passes=1)
        progress(len(types), len(types))


def show(machine: Machine) -> None:
    """For a person."""
    memory = console.human_bytes(machine.memory) if machine.memory else "unknown"
    if machine.memory_available:
        memory += f", {console.human_bytes(machine.memory_available)} available"
    compiled = "compiled" if machine.kernels_compiled else "not compiled yet: doctor --warm does it"
    providers = ", ".join(machine.onnx_providers)
    console.write_facts(
        {
            "rwkv-edge": f"{machine.rwkv_edge}, Python {machine.python}, {machine.system}",
            "CPU": machine.cpu,
            "features": " ".join(machine.features) or "none that kernels use",
            "kernels": f"tier {machine.tier}, {compiled}",
            "threads": str(machine.threads),
            "memory": memory,
            "kernel cache": (
                f"{machine.kernel_cache} ({console.human_bytes(machine.kernel_cache_bytes)})"
            ),
            **({"onnxruntime": f"providers {providers}"} if providers else {}),
        }
    )
    console.write_table(
        ("package", "version", "for"),
        [(p.name, p.version or "not installed", p.purpose) for p in machine.packages],
        n_left=3,
    )
