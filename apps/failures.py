"""Every expected failure as one line on stderr and an exit code."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rwkv_edge.apps.console import one_line
from rwkv_edge.errors import RwkvEdgeError

FAILED = 1
USAGE = 2
# What shells report of a program that a signal ended: 128 and the signal; of Ctrl-C, SIGINT is 2.
SIGNALLED = 128
INTERRUPTED = SIGNALLED + 2


class Stopped(KeyboardInterrupt):
    """A signal ended a command, which first put its things in order, and says which."""

    def __init__(self, message: str, signal_number: int | None = None) -> None:
        """signal_number: None for Ctrl-C."""
        super().__init__(message)
        self.code = INTERRUPTED if signal_number is None else SIGNALLED + signal_number


def report(error: BaseException) -> int | None:
    """Say what went wrong and give the exit code; None for what nobody expected."""
    described = describe(error)
    if described is None:
        return None
    message, code = described
    # stderr may be closed or on a full disk as well; the exit code still says it.
    with contextlib.suppress(OSError, ValueError):
        print(f"rwkv-edge: {one_line(message)}", file=sys.stderr, flush=True)
    return code


def describe(error: BaseException) -> tuple[str, int] | None:
    """The message and exit code of an expected failure."""
    if isinstance(error, RwkvEdgeError):
        return str(error), FAILED
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted", getattr(error, "code", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return "the output was closed before its end", FAILED
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        name = error.filename
        named = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
        return (f"{named}: {reason}" if named else reason), FAILED
    if isinstance(error, MemoryError):
        return "there is not enough memory for this", FAILED
    return None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file that is written in errors of the operating system.

    Those leave it out of failed writes, or name the partial file beside it.
    """
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def abandon_stdout() -> None:
    """Send what is still unwritten nowhere: Python would try again at exit, and complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
