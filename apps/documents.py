"""Reading a long document for a command: where it comes from, progress, checkpoints, signals."""

import contextlib
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from rwkv_edge import Position, Reading
from rwkv_edge.apps import console
from rwkv_edge.apps.failures import SIGNALLED, Stopped, naming
from rwkv_edge.errors import InputError

STDIN = Path("-")
# "50000" are tokens, "10m" is a time.
EVERY = re.compile(r"(\d{1,15})([smh]?)")
SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Document:
    """A text to read. n_bytes: its size when it was opened; None for a pipe."""

    name: str
    file: BinaryIO
    n_bytes: int | None


@contextlib.contextmanager
def open_document(path: Path) -> Iterator[Document]:
    """Open a file, a pipe, or stdin for "-". Raises OSError."""
    with contextlib.ExitStack() as stack:
        if path == STDIN:
            name, file = "stdin", sys.stdin.buffer
        else:
            name, file = path.name, stack.enter_context(open(path, "rb"))
        yield Document(name, file, size_of(file))


def size_of(file: BinaryIO) -> int | None:
    """Bytes that are left of a regular file; None for what says nothing of its size."""
    try:
        found = os.fstat(file.fileno())
        left = found.st_size - file.tell() if stat.S_ISREG(found.st_mode) else 0
    # A replaced stdin may be no file of the system.
    except (OSError, ValueError):
        return None
    # Files of /proc say that they are empty.
    return left if left > 0 else None


class Checkpoints:
    """When a reading is saved meanwhile: every so many tokens, or so much time."""

    def __init__(self, every: str, path: Path) -> None:
        """every: "50000" tokens, or "30s", "10m", "1h". Raises InputError for anything else."""
        match = EVERY.fullmatch(every)
        if match is None or int(match[1]) == 0:
            raise InputError(
                f"--checkpoint-every takes tokens such as 50000, or a time such as 10m, not {every}"
            )
        self._path = path
        unit = SECONDS.get(match[2])
        self._tokens = None if unit else int(match[1])
        self._seconds = int(match[1]) * unit if unit else None
        self._saved_at = time.monotonic()
        self._saved_tokens: int | None = None

    def look(self, reading: Reading) -> None:
        """Save it if it is time to. What cannot be written is said, and tried again next time."""
        if self._saved_tokens is None:
            self._saved_tokens = reading.begin.n_tokens
        n_tokens = reading.position.n_tokens - self._saved_tokens
        seconds = time.monotonic() - self._saved_at
        if self._tokens is not None and n_tokens < self._tokens:
            return
        if self._seconds is not None and seconds < self._seconds:
            return
        self._saved_tokens += n_tokens
        self._saved_at += seconds
        try:
            reading.save(self._path)
        except OSError as error:
            console.note(f"{self._path}: no checkpoint could be written: {error.strerror}")
            return
        at = reading.position
        console.note(
            f"checkpoint after {at.n_tokens:,} tokens ({console.human_bytes(at.n_bytes)}), "
            f"{n_tokens / seconds:.0f} tok/s since the last"
        )


def read_document(document: Document, reading: Reading, checkpoints: Checkpoints | None) -> None:
    """Read it to its end. Raises InputError if there is nothing in it."""
    with reading_progress(document, reading.begin) as show:
        for position in reading:
            show(position)
            if checkpoints is not None:
                checkpoints.look(reading)
    n_bytes = reading.position.n_bytes
    if n_bytes == 0:
        raise InputError(f"{document.name}: the prompt is empty; give at least one character")
    if document.n_bytes is not None and n_bytes != document.n_bytes:
        console.note(
            f"{document.name} had {document.n_bytes:,} bytes at first, and {n_bytes:,} when its "
            "end was reached"
        )


@contextlib.contextmanager
def reading_progress(document: Document, begin: Position) -> Iterator[Callable[[Position], None]]:
    """Gives a callback that draws how far a document was read, where somebody looks at stderr."""
    if not sys.stderr.isatty():
        yield lambda position: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    began = time.perf_counter()

    def update(position: Position) -> None:
        total = document.n_bytes
        n_new = position.n_tokens - begin.n_tokens
        bar.update(
            task,
            completed=position.n_bytes,
            # It may grow while it is read.
            total=None if total is None else max(total, position.n_bytes),
            tokens=f"{position.n_tokens:,} tokens, {n_new / (time.perf_counter() - began):.0f}/s",
        )

    columns = (
        TextColumn("reading {task.description}", markup=False),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TextColumn("{task.fields[tokens]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        name = console.one_line(document.name)
        task = bar.add_task(
            name, total=document.n_bytes, completed=begin.n_bytes, tokens=f"{begin.n_tokens:,}"
        )
        yield update


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end as Ctrl-C does: with the state written."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        # What a command that saves nothing ends with.
        self.code = SIGNALLED + number


@contextlib.contextmanager
def ending_gently() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Terminated`, once; another one ends the program at once."""
    if threading.current_thread() is not threading.main_thread():
        # Signals belong to the main thread.
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        raise Terminated(number)

    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    # What is ignored (by nohup) or handled by somebody else stays so.
    mine = [n for n in numbers if n is not None and signal.getsignal(n) is signal.SIG_DFL]
    try:
        for number in mine:
            signal.signal(number, stop)
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def saving_if_stopped(path: Path | None, save: Callable[[Path], str | None]) -> Iterator[None]:
    """If a signal ends the block, save to `path` and say so; raises Stopped with the exit code.

    save: writes the file and says what is in it; None if there was nothing to write.
    """
    if path is None:
        yield
        return
    with ending_gently():
        try:
            yield
        except KeyboardInterrupt as error:
            with naming(path):
                what = save(path)
            message = "interrupted" if what is None else f"interrupted; {path} holds {what}"
            raise Stopped(message, getattr(error, "number", None)) from None
