"""What only a process of its own can show: the time to a first token, and memory.

The second half of this file is what runs there: `python -m rwkv_edge.apps.fresh_process`.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge import Model
from rwkv_edge.apps.failures import FAILED, report
from rwkv_edge.errors import RwkvEdgeError

MODULE = "rwkv_edge.apps.fresh_process"
PROMPT = "The"
# Decoded before a process's memory is looked at, so that all that is made on demand is there.
SETTLING_TOKENS = 8
# Between two looks at the memory of a process that decodes many tokens.
SOAK_STEP = 1000


@dataclass(frozen=True)
class Task:
    """What a fresh process shall run. cache: its folder for compiled kernels; None: the user's."""

    path: Path
    backend: str
    threads: int | None
    cache: Path | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that a process has, and had at most; None where the system does not say."""

    steady: int | None
    peak: int | None


@dataclass(frozen=True)
class Soak:
    """Resident bytes before and after a long decode, and the most that was seen in between."""

    n_tokens: int
    start: int | None
    end: int | None
    highest: int | None


def seconds_to_first_token(task: Task) -> float:
    """From the start of a Python process to its first token; raises RwkvEdgeError if it fails."""
    began = time.perf_counter()
    with start(task, "first-token") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = time.perf_counter() - began
        finish(process, line)
    return taken


def measure_memory(task: Task) -> Memory:
    """Of a process that loads the model and decodes a little; raises RwkvEdgeError."""
    return Memory(**ask(task, "memory"))


def measure_soak(task: Task, n_tokens: int) -> Soak:
    """Of a process that decodes n_tokens; raises RwkvEdgeError if it fails."""
    return Soak(n_tokens=n_tokens, **ask(task, "soak", n_tokens))


def ask(task: Task, what: str, n_tokens: int = 0) -> dict[str, int | None]:
    """One line of JSON from a fresh process."""
    with start(task, what, n_tokens) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        finish(process, line)
    found: dict[str, int | None] = json.loads(line)
    return found


def start(task: Task, what: str, n_tokens: int = 0) -> "subprocess.Popen[str]":
    """Begin it, with a pipe for each of its outputs."""
    command = [sys.executable, "-m", MODULE, what, str(task.path), "--backend", task.backend]
    if task.threads is not None:
        command += ["--threads", str(task.threads)]
    command += ["--tokens", str(n_tokens)]
    environment: Mapping[str, str] = os.environ
    if task.cache is not None:
        environment = {**os.environ, "RWKV_EDGE_CACHE": str(task.cache)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: "subprocess.Popen[str]", line: str) -> None:
    """Wait for its end; raises RwkvEdgeError with its last words if it failed or said nothing."""
    _, errors = process.communicate()
    if process.returncode != 0 or not line:
        last = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise RwkvEdgeError(f"a fresh process failed: {last.removeprefix('rwkv-edge: ')}")


def resident_bytes() -> Memory:
    """This process's memory."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        steady, peak = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return Memory(steady, peak)
    except (OSError, KeyError, ValueError, IndexError):
        return Memory(None, peak_elsewhere())


def peak_elsewhere() -> int | None:
    """The most memory that this process had, where there is no /proc; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The unit is one of the things that systems disagree on.
    return most if sys.platform == "darwin" else most * 1024


def first_token(model: Model) -> None:
    """Say when the first token of an answer is there."""
    for _ in model.stream(PROMPT, max_tokens=1, temperature=0):
        pass
    print("here it is", flush=True)


def memory(model: Model) -> None:
    """Decode a little, then say how much memory there is."""
    for _ in itertools.islice(decoding(model), SETTLING_TOKENS):
        pass
    print(json.dumps(vars(resident_bytes())), flush=True)


def soak(model: Model, n_tokens: int) -> None:
    """Decode for long, and say what memory did meanwhile."""
    seen: list[int | None] = []
    steps = itertools.islice(decoding(model), SETTLING_TOKENS + n_tokens + 1)
    for done, _ in enumerate(steps, -SETTLING_TOKENS):
        if done >= 0 and (done % SOAK_STEP == 0 or done == n_tokens):
            seen.append(resident_bytes().steady)
    highest = max((size for size in seen if size is not None), default=None)
    print(json.dumps({"start": seen[0], "end": seen[-1], "highest": highest}), flush=True)


def decoding(model: Model) -> Iterator[None]:
    """The likeliest tokens after a short prompt, one at a time and for ever."""
    logits, state = model.forward(model.tokenizer.encode(PROMPT))
    while True:
        yield
        logits, state = model.forward([int(logits.argmax())], state)


def main() -> int:
    """Do one task; an expected failure is one line and exit code 1, as everywhere."""
    parser = argparse.ArgumentParser(description="Measure one fresh process.")
    parser.add_argument("what", choices=["first-token", "memory", "soak"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=0)
    args = parser.parse_args()
    try:
        with Model.load(args.path, args.backend, args.threads) as model:
            if args.what == "first-token":
                first_token(model)
            elif args.what == "memory":
                memory(model)
            else:
                soak(model, args.tokens)
    except (RwkvEdgeError, OSError, MemoryError) as error:
        report(error)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
