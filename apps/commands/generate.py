"""`rwkv-edge generate`."""

import contextlib
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge import Model, Reading, State, Stream
from rwkv_edge.apps import console, options, sampling
from rwkv_edge.apps.documents import (
    STDIN,
    Checkpoints,
    Document,
    open_document,
    read_document,
    saving_if_stopped,
)
from rwkv_edge.apps.failures import naming
from rwkv_edge.apps.loading import open_model, state_to_begin_with
from rwkv_edge.backend import Float32Array
from rwkv_edge.errors import InputError

LENGTH = "length"
# What `Stream.finish_reason` means, for a person.
ENDINGS = {
    LENGTH: "-n says how many",
    "stop": "ended by a stop text",
    "end": "the model ended the document",
    None: "ended early",
}


@dataclass
class Work:
    """What a run of the command has done so far, so that it can be saved at any moment.

    state: has seen the document of `reading`, if there is one, then the prompt and the answer of
    `stream`, once there are some. n_prompt_tokens: read of the prompt alone.
    """

    state: State
    reading: Reading | None = None
    stream: Stream | None = None
    pieces: list[str] = field(default_factory=list)
    n_prompt_tokens: int = 0

    @property
    def tokens(self) -> list[int]:
        """What was written."""
        return [] if self.stream is None else self.stream.tokens

    @property
    def finish_reason(self) -> str | None:
        """As `Stream` says it; where nothing was to be written, that is the length."""
        return LENGTH if self.stream is None else self.stream.finish_reason

    @property
    def n_document_tokens(self) -> int:
        """Read of the document now, not by what was resumed."""
        reading = self.reading
        return 0 if reading is None else reading.position.n_tokens - reading.begin.n_tokens

    def save(self, path: Path) -> None:
        """Write the state as it is after everything."""
        position = None
        if self.reading is not None:
            n_after = self.n_prompt_tokens + len(self.tokens)
            position = replace(self.reading.position, n_after=n_after)
        with naming(path):
            self.state.save(path, position)


def generate(
    model_path: options.ModelPath,
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; - reads it from stdin.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", help="Read a document of any size first; - is stdin."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=0, help="Write at most this many tokens.")
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
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on reading --file where this state was saved; it must be the same."),
    ] = None,
    save_state: Annotated[
        Path | None,
        typer.Option(help="Write the state to this file: at the end, and if it is interrupted."),
    ] = None,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(metavar="N", help="Also while reading: every N tokens, or 30s, 10m, 1h."),
    ] = None,
    backend: options.Backend = None,
    threads: options.Threads = None,
    tuned_state: options.TunedState = None,
    no_tuned_state: options.NoTunedState = False,
    as_json: options.Json = False,
) -> None:
    """Continue a text.

    Only what the model adds goes to stdout. A document is read in constant memory, whatever its
    size; a prompt beside it comes after it.
    """
    chosen = sampling.chosen(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
    )
    if prompt == "-" and file is None:
        prompt, file = None, STDIN
    check_options(prompt, file, state, resume, save_state, checkpoint_every)
    checkpoints = None
    if checkpoint_every is not None and save_state is not None:
        checkpoints = Checkpoints(checkpoint_every, save_state)
    with contextlib.ExitStack() as stack:
        document = stack.enter_context(open_document(file)) if file is not None else None
        begin = state_to_begin_with(tuned_state, no_tuned_state)
        model = stack.enter_context(open_model(model_path, backend, threads, tuned_state=begin))
        began = time.perf_counter()
        work = start(model, document, state, resume)
        if document is not None and work.reading is not None:
            read(document, work.reading, save_state, checkpoints)
        # Tokens, because a text that goes on may have others than one that begins.
        goes_on = document is not None or state is not None
        tokens = encoded(model, prompt, goes_on) if prompt else []
        if max_tokens == 0:
            add_prompt(model, work, tokens)
        else:
            work.stream = model.stream(
                tokens,
                max_tokens=max_tokens,
                seed=seed,
                sampling=chosen,
                stop=tuple(stop or ()),
                state=work.state,
                logits=logits_of(work.reading, prompt),
            )
            write(work, work.stream, save_state, as_json)
        seconds = time.perf_counter() - began
        if save_state:
            work.save(save_state)
    if as_json:
        console.write_json(description(work, seconds))
        return
    if max_tokens > 0:
        print(flush=True)
    if sys.stderr.isatty():
        n_read = work.n_document_tokens + work.n_prompt_tokens
        console.note(
            f"({n_read} tokens read and {len(work.tokens)} written in "
            f"{seconds:.1f} s; {ENDINGS.get(work.finish_reason)})"
        )


def check_options(
    prompt: str | None,
    file: Path | None,
    state: Path | None,
    resume: Path | None,
    save_state: Path | None,
    checkpoint_every: str | None,
) -> None:
    """Raise BadParameter for options that do not go together, InputError for a missing folder."""
    if prompt is None and file is None:
        raise typer.BadParameter("give a prompt, - for stdin, or --file")
    if prompt == "-":
        raise typer.BadParameter("a prompt beside --file is given itself, not as -")
    if prompt == "" and file is None:
        raise InputError("the prompt is empty; give at least one character")
    if resume is not None and (file is None or state is not None):
        raise typer.BadParameter("--resume goes with --file, and without --state")
    if checkpoint_every is not None and (save_state is None or file is None):
        raise typer.BadParameter("--checkpoint-every goes with --file and --save-state")
    if save_state is not None and not save_state.parent.is_dir():
        # Found now rather than after hours of work.
        raise InputError(f"{save_state}: its folder does not exist; make it first")


def start(model: Model, document: Document | None, state: Path | None, resume: Path | None) -> Work:
    """What came before, with the document that is to be read."""
    if document is not None and resume is not None:
        with console.busy(f"looking whether {document.name} is the same"):
            reading = model.resume(resume, document.file)
        return Work(reading.state, reading)
    before = model.load_state(state) if state else None
    if document is None:
        return Work(before or model.new_state())
    reading = model.read(document.file, before)
    return Work(reading.state, reading)


def read(
    document: Document,
    reading: Reading,
    save_state: Path | None,
    checkpoints: Checkpoints | None,
) -> None:
    """Read the document to its end, or save how far it was read."""

    def save(path: Path) -> str:
        reading.save(path)
        at = reading.position
        return (
            f"the state after {at.n_tokens:,} tokens ({at.n_bytes:,} bytes) of {document.name}; "
            "--resume goes on from there"
        )

    with saving_if_stopped(save_state, save):
        read_document(document, reading, checkpoints)


def logits_of(reading: Reading | None, prompt: str | None) -> Float32Array | None:
    """What the document's end foretells; raises InputError where there is nothing to go on from."""
    if reading is None or prompt:
        return None
    if reading.logits is None:
        raise InputError(
            "the document had been read to its end before; give a prompt to go on with, or -n 0"
        )
    return reading.logits


def encoded(model: Model, prompt: str, goes_on: bool) -> list[int]:
    """The tokens of a prompt; goes_on: something came before it."""
    tokenizer = model.tokenizer
    return tokenizer.encode_more(prompt) if goes_on else tokenizer.encode(prompt)


def add_prompt(model: Model, work: Work, tokens: list[int]) -> None:
    """Read a prompt to which no answer is wanted."""
    if tokens:
        model.forward(tokens, work.state)
        work.n_prompt_tokens = len(tokens)


def write(work: Work, stream: Stream, save_state: Path | None, as_json: bool) -> None:
    """Write the answer as it is made; if that is interrupted, save what there is."""
    before = work.state.clone() if save_state else None

    def save(path: Path) -> str | None:
        if work.pieces:
            work.save(path)
            return "the state after what was written"
        if before is None or work.reading is None:
            return None
        # Nobody knows how much of a prompt was read.
        before.save(path, work.reading.position)
        return "the state after the document"

    work.n_prompt_tokens = stream.n_prompt_tokens
    with saving_if_stopped(save_state, save):
        for piece in stream:
            work.pieces.append(piece)
            if not as_json:
                console.write(piece)


def description(work: Work, seconds: float) -> dict[str, object]:
    """All of it, for a program."""
    document = None
    if work.reading is not None:
        at, began = work.reading.position, work.reading.begin
        document = {
            "n_bytes": at.n_bytes,
            "n_tokens": at.n_tokens,
            "sha256": at.sha256,
            "resumed_at_bytes": began.n_bytes,
        }
    return {
        "text": "".join(work.pieces),
        "tokens": work.tokens,
        "finish_reason": work.finish_reason,
        "n_prompt_tokens": work.n_document_tokens + work.n_prompt_tokens,
        "document": document,
        "seconds": seconds,
    }
