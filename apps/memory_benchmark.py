"""Resident memory and speed against tokens seen: a model, and a Transformer of its size.

Each runs in a process of its own; the second half of this file is what runs there:
`python -m rwkv_edge.apps.memory_benchmark`.
"""

import argparse
import contextlib
import datetime
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rwkv_edge import Model
from rwkv_edge.apps import console
from rwkv_edge.apps.benchmark import describe_machine, describe_model, describe_versions
from rwkv_edge.apps.failures import FAILED, report
from rwkv_edge.apps.fresh_process import finish, resident_bytes
from rwkv_edge.apps.machine import inspect_machine
from rwkv_edge.apps.runnable import Runnable
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.model_files import default_engine, open_model_file
from rwkv_edge.model_metadata import ModelMetadata

MODULE = "rwkv_edge.apps.memory_benchmark"
# Raised whenever a key changes its meaning; readers of stored reports look at it.
FORMAT = 1
KIND = "memory"
TRANSFORMER = "transformer"
# About a minute for both, in a model of 200 million parameters on two cores.
DEFAULT_TOKENS = 16384
FIRST_POINT = 256
# Before each point so many tokens are decoded one at a time; those before them are read at once.
DECODED = 32
BLOCK_TOKENS = 512
PACKAGE = "llama-cpp-python"


@dataclass(frozen=True)
class Point:
    """What was found after n_tokens.

    resident: bytes, None where the system does not say; peak: the most so far. decode, read:
    tokens a second, one at a time (of the median token) and at once, since the point before.
    """

    n_tokens: int
    resident: int | None
    peak: int | None
    decode: float
    read: float


@dataclass(frozen=True)
class MemoryReport:
    """Points by engine, and what was measured on what. Plain values, and no path of this machine.

    transformer: its shape, and `stopped` if it could not go on to the end; None where there is
    none. n_tokens: of the last point.
    """

    format: int
    kind: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    model: dict[str, Any]
    transformer: dict[str, Any] | None
    n_tokens: int
    threads: int | None
    engines: dict[str, list[Point]]


def points_to(n_tokens: int) -> list[int]:
    """256, 512, 1024 and so on, and the last."""
    points = []
    point = FIRST_POINT
    while point < n_tokens:
        points.append(point)
        point *= 2
    return [*points, n_tokens]


def measure_growth(
    path: Path, backend: str | None, threads: int | None, n_tokens: int, *, alone: bool = False
) -> MemoryReport:
    """Run both. alone: without the Transformer, which else is left out where llama.cpp is missing.

    Raises InputError for too few tokens, RwkvEdgeError if the model's process fails, OSError.
    """
    if n_tokens < FIRST_POINT:
        raise InputError(f"--tokens is {n_tokens}; it takes at least {FIRST_POINT}")
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # First, because a forced tier hides from numba what the CPU has.
    machine = inspect_machine()
    versions = describe_versions(machine)
    transformer: dict[str, Any] | None = None
    with contextlib.closing(open_model_file(path)) as file:
        model = describe_model(file)
        n_vocab = file.hyperparameters.n_vocab
        engine = backend or default_engine(file)
        with Runnable(path, threads) as runnable:
            runs = runnable.for_engine(engine)
            engines = {engine: list(run(engine, runs, n_vocab, threads, n_tokens))}
        if not alone and PACKAGE not in versions:
            console.note(f"{PACKAGE} is not installed, so there is no Transformer beside it")
        elif not alone:
            with tempfile.TemporaryDirectory(prefix="rwkv-edge-") as folder:
                made = Path(folder) / "transformer.gguf"
                transformer = make_transformer(made, file)
                engines[TRANSFORMER] = found = []
                try:
                    for point in run(TRANSFORMER, made, n_vocab, threads, n_tokens):
                        found.append(point)
                except RwkvEdgeError as error:
                    # Without memory for more, what was found so far is the finding.
                    if not found:
                        raise
                    transformer["stopped"] = str(error).replace(folder, "")
                    console.note(f"the Transformer stopped: {transformer['stopped']}")
    return MemoryReport(
        format=FORMAT,
        kind=KIND,
        date=date,
        machine=describe_machine(machine),
        versions=versions,
        model=model,
        transformer=transformer,
        n_tokens=n_tokens,
        threads=threads,
        engines=engines,
    )


def make_transformer(path: Path, model: ModelMetadata) -> dict[str, Any]:
    """Write it, and describe it."""
    from rwkv_edge.converters.synthetic_transformer import write_transformer

    with console.busy("making a Transformer of this size"):
        shape = write_transformer(path, model)
    return {
        **asdict(shape),
        "n_parameters": shape.n_parameters,
        "n_bytes": path.stat().st_size,
        "cache_bytes_per_token": shape.cache_bytes_per_token,
    }


def run(
    engine: str, path: Path, n_vocab: int, threads: int | None, n_tokens: int
) -> Iterator[Point]:
    """The points of a fresh process, as they are found; raises RwkvEdgeError if it fails."""
    command = [sys.executable, "-m", MODULE, engine, str(path), "--n-vocab", str(n_vocab)]
    command += ["--tokens", str(n_tokens)]
    if threads is not None:
        command += ["--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process, console.progress(f"{engine}, tokens") as show:
        assert process.stdout is not None
        line = ""
        try:
            show(0, n_tokens)
            for line in process.stdout:
                point = Point(**json.loads(line))
                yield point
                show(point.n_tokens, n_tokens)
            finish(process, line)
        except BaseException:
            process.kill()
            raise


# What runs in a process of its own.

Read = Callable[[list[int]], object]


def watch(
    read: Read, n_vocab: int, points: Sequence[int], make_room: Callable[[int], object]
) -> Iterator[Point]:
    """Give random tokens to `read` up to each point, in turn; look at memory and time there."""
    chance = random.Random(0)

    def seconds(n_tokens: int) -> float:
        tokens = chance.choices(range(n_vocab), k=n_tokens)
        began = time.perf_counter()
        read(tokens)
        return time.perf_counter() - began

    seen = 0
    for point in points:
        make_room(point)
        n_read = max(0, point - seen - DECODED)
        left, took = n_read, 0.0
        while left:
            took += seconds(min(left, BLOCK_TOKENS))
            left -= min(left, BLOCK_TOKENS)
        decoded = [seconds(1) for _ in range(point - seen - n_read)]
        memory = resident_bytes()
        yield Point(
            n_tokens=point,
            resident=memory.steady,
            peak=memory.peak,
            decode=1 / statistics.median(decoded),
            read=n_read / took if took else 0.0,
        )
        seen = point


def watch_model(
    path: Path, backend: str, threads: int | None, points: Sequence[int]
) -> Iterator[Point]:
    """RWKV, in one state all the time."""
    with Model.load(path, backend, threads) as model:
        state = model.new_state()
        n_vocab = model.hyperparameters.n_vocab
        yield from watch(
            lambda tokens: model.forward(tokens, state), n_vocab, points, lambda n_tokens: None
        )


def watch_transformer(
    path: Path, n_vocab: int, threads: int | None, points: Sequence[int]
) -> Iterator[Point]:
    """A Transformer, at each point in a context that just holds it."""
    from rwkv_edge.runtime.backends.llama_transformer import LlamaTransformer

    with contextlib.closing(LlamaTransformer(path, n_vocab, threads)) as transformer:
        yield from watch(transformer.forward, n_vocab, points, transformer.make_room)


def main() -> int:
    """Say what is found, a line of JSON a point; a failure is one line and exit code 1."""
    parser = argparse.ArgumentParser(description="Measure one engine.")
    parser.add_argument("engine")
    parser.add_argument("path", type=Path)
    parser.add_argument("--n-vocab", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    points = points_to(args.tokens)
    try:
        found = (
            watch_transformer(args.path, args.n_vocab, args.threads, points)
            if args.engine == TRANSFORMER
            else watch_model(args.path, args.engine, args.threads, points)
        )
        for point in found:
            print(json.dumps(asdict(point)), flush=True)
    except (RwkvEdgeError, OSError, MemoryError) as error:
        report(error)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
