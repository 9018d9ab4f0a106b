"""`rwkv-edge generate`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge.apps import console, options, sampling
from rwkv_edge.apps.failures import naming
from rwkv_edge.apps.loading import open_model
from rwkv_edge.errors import InputError

# What `Stream.finish_reason` means, for a person.
ENDINGS = {
    "length": "-n says how many",
    "stop": "ended by a stop text",
    "end": "the model ended the document",
    None: "ended early",
}


def generate(
    model_path: options.ModelPath,
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; - reads it from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="Read the prompt from a file.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=1, help="Write at most this many tokens.")
    ] = 100,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    seed: options.Seed = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End before this text; may be given several times."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Go on from a state that --save-state wrote.")
    ] = None,
    save_state: Annotated[
        Path | None, typer.Option(help="Write the state after the text to this file.")
    ] = None,
    backend: options.Backend = "numba",
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Continue a text.

    Only what the model adds goes to stdout.
    """
    chosen = sampling.chosen(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
    )
    text = prompt_text(prompt, file)
    with open_model(model_path, backend, threads) as model:
        began = time.perf_counter()
        stream = model.stream(
            text,
            max_tokens=max_tokens,
            seed=seed,
            sampling=chosen,
            stop=tuple(stop or ()),
            state=model.load_state(state) if state else None,
        )
        pieces = []
        for piece in stream:
            pieces.append(piece)
            if not as_json:
                console.write(piece)
        seconds = time.perf_counter() - began
        if save_state:
            with naming(save_state):
                stream.state.save(save_state)
    if as_json:
        console.write_json(
            {
                "text": "".join(pieces),
                "tokens": stream.tokens,
                "finish_reason": stream.finish_reason,
                "n_prompt_tokens": stream.n_prompt_tokens,
                "seconds": seconds,
            }
        )
    else:
        print(flush=True)
        if sys.stderr.isatty():
            console.note(
                f"({stream.n_prompt_tokens} tokens read and {len(stream.tokens)} written in "
                f"{seconds:.1f} s; {ENDINGS.get(stream.finish_reason)})"
            )


def prompt_text(prompt: str | None, file: Path | None) -> str | bytes:
    """The prompt, from wherever the user has it; raises InputError if it is empty."""
    if (prompt is None) == (file is None):
        raise typer.BadParameter("give a prompt, - for stdin, or --file")
    if file is not None:
        text: str | bytes = file.read_bytes()
    elif prompt == "-":
        text = sys.stdin.buffer.read()
    else:
        assert prompt is not None
        text = prompt
    if not text:
        raise InputError("the prompt is empty; give at least one character")
    return text
