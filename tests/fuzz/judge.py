"""Whether a reader behaved: what it raised, ran, allocated and took."""

import contextlib
import os
import re
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkv_edge import RwkvEdgeError

# What a reader may allocate: so many times the file, and this.
TIMES_SIZE = 2
SPARE_BYTES = 64 << 20
# Of processor time, not of the clock: other programs may have the processor.
READ_LIMIT_S = 10.0
RUN_LIMIT_S = 30.0
# What a message may hold beside the file's name.
MAX_MESSAGE = 700
# Events of `sys.audit` that no reading of a file has a reason for.
FORBIDDEN = re.compile(
    r"exec|compile|import|marshal\..*|pickle\.find_class|code\.__new__|function\.__new__"
    r"|subprocess\.Popen|os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile|kill|putenv)"
    r"|socket\..*|ctypes\..*|shutil\..*|os\.(remove|rename|link|symlink|rmdir|truncate|chmod)"
    r"|webbrowser\.open|urllib\.Request|pty\.spawn|sys\.(addaudithook|setprofile|settrace)"
)
WRITING = re.compile("[wxa+]")
# Modules that Python itself loads when a text first needs them: codecs, names of characters.
HARMLESS_IMPORTS = ("encodings.", "unicodedata")


@dataclass(frozen=True)
class Verdict:
    """outcome: "opened", "refused", "ran", or "unsuited" if an engine refused what could be opened.

    fault: what the reader did that none may do; "" for nothing.
    """

    outcome: str
    fault: str = ""


class Judge:
    """Watches calls of readers in this process. One is enough: audit hooks stay for ever."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary
        self._allowed: frozenset[str] | None = None
        self._events: list[str] = []
        self._importing = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._allowed is None or event in self._allowed:
            return
        if event == "open":
            mode = arguments[1]
            if isinstance(mode, str) and WRITING.search(mode):
                self._events.append(f"open {arguments[0]!r:.80} {mode}")
        elif FORBIDDEN.fullmatch(event):
            what = repr(arguments[0])[:80] if arguments else ""
            if event == "import":
                self._importing = str(arguments[0]).startswith(HARMLESS_IMPORTS)
            if not self._importing:
                self._events.append(f"{event} {what}")

    @contextlib.contextmanager
    def hearing(self, allowed: frozenset[str]) -> Iterator[None]:
        """Note every forbidden event but the allowed ones."""
        self._allowed = allowed
        self._importing = False
        self._events.clear()
        try:
            yield
        finally:
            self._allowed = None

    def read(self, call: Any, size: int, allowed: frozenset[str]) -> tuple[Verdict, Any]:
        """Call a reader of a file of `size` bytes; gives the verdict and what it gave."""
        result: Any = None
        outcome, faults = "opened", []
        tracemalloc.start()
        reset_peak_memory()
        before = peak_memory()
        began = time.process_time()
        try:
            with self.hearing(allowed):
                result = call()
        except RwkvEdgeError as error:
            outcome = "refused"
            faults += faults_of(str(error), self._canary.parent)
        # Whatever it is, it is a fault; MemoryError and RecursionError among them.
        except BaseException as error:
            faults.append(f"raised {type(error).__name__}: {str(error)[:200]!r}")
        took = time.process_time() - began
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        grown = peak_memory() - before
        limit = TIMES_SIZE * size + SPARE_BYTES
        if max(allocated, grown) > limit:
            faults.append(f"allocated {allocated:,} B (resident {grown:,}) of {limit:,}")
        if took > READ_LIMIT_S:
            faults.append(f"took {took:.1f} s of processor time")
        faults += [f"event {event}" for event in self._events]
        if self._canary.exists():
            faults.append("a gadget ran: its file is there")
            self._canary.unlink()
        return Verdict(outcome, "; ".join(faults[:5])), result

    def run(self, call: Any) -> Verdict:
        """Call what a file that was opened is for."""
        began = time.process_time()
        outcome, faults = "ran", []
        try:
            call()
        except RwkvEdgeError as error:
            outcome = "unsuited"
            faults += faults_of(str(error), self._canary.parent)
        except BaseException as error:
            faults.append(f"running raised {type(error).__name__}: {str(error)[:200]!r}")
        took = time.process_time() - began
        if took > RUN_LIMIT_S:
            faults.append(f"running took {took:.1f} s of processor time")
        return Verdict(outcome, "; ".join(faults[:5]))


def faults_of(message: str, folder: Path) -> Iterator[str]:
    """What is wrong with an error's text: it must be one short line that a terminal can show."""
    if not message.isprintable():
        yield f"the message is not one printable line: {message[:200]!r}"
    # Names of files may be of any length.
    if len(message.replace(str(folder), "")) > MAX_MESSAGE:
        yield f"the message has {len(message):,} characters: {message[:100]!r}"
    if not message.strip():
        yield "the message is empty"


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, where the system can."""
    with contextlib.suppress(OSError):
        # Not `open`: it is not this that is watched.
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)


def peak_memory() -> int:
    """The most bytes that this process had in memory since the reset; 0 where nobody says."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def limit_memory(n_bytes: int) -> None:
    """Let this process map at most `n_bytes` more, where the system can: the rest would swap."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + n_bytes, mapped + n_bytes))
