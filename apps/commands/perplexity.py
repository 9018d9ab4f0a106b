"""`rwkv-edge perplexity`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge.apps import console, options
from rwkv_edge.apps.loading import open_model, state_to_begin_with
from rwkv_edge.errors import RwkvEdgeError


def perplexity(
    model_path: options.ModelPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Any text, of any size.")],
    backend: options.Backend = None,
    threads: options.Threads = None,
    tuned_state: options.TunedState = None,
    no_tuned_state: options.NoTunedState = False,
    as_json: options.Json = False,
) -> None:
    """Measure how well a model predicts a text.

    In bits per byte; less is better.
    """
    from rwkv_edge.perplexity import measure_perplexity

    begin = state_to_begin_with(tuned_state, no_tuned_state)
    with open(file, "rb") as text:
        n_bytes = file.stat().st_size
        with (
            open_model(model_path, backend, threads, tuned_state=begin) as model,
            console.progress(f"reading {file.name}", "bytes") as progress,
        ):
            try:
                result = measure_perplexity(
                    model, text, progress=lambda done: progress(done, n_bytes)
                )
            except RwkvEdgeError as error:
                raise type(error)(f"{file}: {error}") from error
    derived = {
        "bits_per_byte": result.bits_per_byte,
        "nats_per_token": result.nats_per_token,
        "perplexity": result.perplexity,
        "tokens_per_second": result.tokens_per_second,
    }
    if as_json:
        console.write_json({**dataclasses.asdict(result), **derived})
        return
    console.write_facts(
        {
            "bits per byte": f"{result.bits_per_byte:.4f}",
            "nats per token": f"{result.nats_per_token:.4f}",
            "perplexity": f"{result.perplexity:.3f}",
            "tokens": f"{result.n_tokens:,} ({result.n_bytes:,} bytes)",
            "tokens per second": f"{result.tokens_per_second:.1f}",
        }
    )
