"""All that `rwkv-edge bench` measures, in order, as one report."""

import contextlib
import datetime
import platform
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rwkv_edge.apps import console, options
from rwkv_edge.apps.fresh_process import (
    Memory,
    Soak,
    Task,
    measure_memory,
    measure_soak,
    seconds_to_first_token,
)
from rwkv_edge.apps.loading import open_model
from rwkv_edge.apps.machine import Machine, inspect_machine
from rwkv_edge.apps.runnable import Runnable
from rwkv_edge.benchmark import (
    Measurement,
    measure_batch,
    measure_decode,
    measure_load,
    measure_prefill,
)
from rwkv_edge.errors import InputError
from rwkv_edge.model_files import default_engine, open_model_file
from rwkv_edge.model_metadata import ModelMetadata
from rwkv_edge.onnx_model_file import OnnxModelFile

# Raised whenever a key changes its meaning; readers of stored reports look at it.
FORMAT = 1
# What can be left out, in the order in which it is measured.
PARTS = ("start", "memory", "load", "bandwidth", "prefill", "decode", "batch")
# Of a batch, each sequence decodes this part of the tokens that a single one does.
BATCH_SHARE = 4
MAX_BUFFER = 1 << 30


@dataclass(frozen=True)
class Settings:
    """What to measure. prefill: tokens of prompts; batch: numbers of sequences; soak: 0 for none.

    backend: an engine; None for the one that the file takes, as `run_benchmark` reports it.
    against: the engines that take turns with `backend`, with commas between them, or None.
    skip: some of `PARTS`.
    """

    backend: str | None
    against: str | None
    threads: int | None
    rounds: int
    prefill: tuple[int, ...]
    decode: int
    batch: tuple[int, ...]
    soak: int
    skip: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a process to its first token.

    cold: when kernels must be compiled; compiling: how much of that is their share.
    """

    cold: float
    warm: float
    compiling: float
    warm_samples: tuple[float, ...]


@dataclass(frozen=True)
class Bandwidth:
    """What the memory gives, and what that allows.

    bytes_per_second: read by `threads` in this process. decode_limit: tokens a second if each token
    reads all matrices and nothing else takes time. decode_share: of that limit, reached; above 1
    where an engine need not read all of them.
    """

    bytes_per_second: float
    buffer_bytes: int
    threads: int
    decode_limit: float
    decode_share: float | None


@dataclass(frozen=True)
class Report:
    """Everything; None for what was left out. Plain values, and no path of this machine."""

    format: int
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    model: dict[str, Any]
    settings: Settings
    engines: dict[str, dict[str, Any]]
    measurements: list[Measurement]
    start: Start | None
    memory: Memory | None
    soak: Soak | None
    bandwidth: Bandwidth | None


def run_benchmark(path: Path, settings: Settings) -> Report:
    """Measure it; raises what loading a model raises."""
    from rwkv_edge.runtime.backends import engine_of, require_file

    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # First, because a forced tier hides from numba what the CPU has.
    machine = inspect_machine()
    with contextlib.closing(open_model_file(path)) as opened:
        model = describe_model(opened)
        backend = settings.backend or default_engine(opened)
        others = options.engine_names(settings.against or "")
        if backend in others:
            raise InputError(f"{path}: --against {backend} is the engine that is measured itself")
        settings = replace(settings, backend=backend)
        names = [backend, *others]
        if isinstance(opened, OnnxModelFile):
            # A GGUF may become what an engine runs; an ONNX cannot.
            for name in names:
                require_file(engine_of(name), opened)
    measurements = []
    with Runnable(path, settings.threads) as runnable:
        # What must be made for an engine is made once, before anything is measured.
        files = {name: runnable.for_engine(name) for name in names}
        # Before this process holds any model: theirs then have the memory to themselves.
        start, memory, soak = measure_processes(files[backend], backend, settings)
        if "load" not in settings.skip:
            with console.busy("loading"):
                measurements.append(measure_load(files, settings.threads, settings.rounds))
        n_bytes_per_second, buffer_bytes, threads = 0.0, 0, settings.threads or machine.threads
        if "bandwidth" not in settings.skip:
            buffer_bytes = buffer_size(machine)
            n_bytes_per_second = measure_bandwidth(threads, buffer_bytes)
        found, engines = measure_speeds(files, settings)
    measurements += found
    bandwidth = None
    if buffer_bytes:
        limit = n_bytes_per_second / model["bytes_per_token"]
        decoded = [m.medians[backend] for m in found if m.what == "decode"]
        share = decoded[0] / limit if decoded else None
        bandwidth = Bandwidth(n_bytes_per_second, buffer_bytes, threads, limit, share)
    return Report(
        format=FORMAT,
        date=date,
        machine=describe_machine(machine),
        versions=describe_versions(machine),
        model=model,
        settings=settings,
        engines=engines,
        measurements=measurements,
        start=start,
        memory=memory,
        soak=soak,
        bandwidth=bandwidth,
    )


def describe_model(file: ModelMetadata) -> dict[str, Any]:
    """What was measured: the file's name but not its folder."""
    return {
        "file": file.path.name,
        "hyperparameters": console.plain(file.hyperparameters),
        "file_type": file.file_type,
        "n_parameters": file.n_parameters,
        "n_bytes": file.n_bytes,
        "bytes_per_token": file.bytes_per_token,
        "fingerprint": file.fingerprint,
    }


def describe_machine(machine: Machine) -> dict[str, Any]:
    """What of it makes a difference to speed."""
    from rwkv_edge.runtime.simd.cpu import forced_tier

    return {
        "cpu": machine.cpu,
        "features": machine.features,
        "tier": machine.tier,
        "tier_is_forced": forced_tier() not in (None, "auto"),
        "threads": machine.threads,
        "memory": machine.memory,
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_versions(machine: Machine) -> dict[str, str]:
    """Of this package, Python, and what is installed of the others."""
    packages = {p.name: p.version for p in machine.packages if p.version is not None}
    return {"rwkv-edge": machine.rwkv_edge, "python": machine.python, **packages}


def measure_processes(
    path: Path, backend: str, settings: Settings
) -> tuple[Start | None, Memory | None, Soak | None]:
    """What takes a process of its own each."""
    wants_start, wants_memory = ("start" not in settings.skip, "memory" not in settings.skip)
    start, memory, soak = None, None, None
    if not (wants_start or wants_memory or settings.soak):
        return start, memory, soak
    with tempfile.TemporaryDirectory(prefix="rwkv-edge-") as folder:
        # An empty cache shows a first start; what shows no start may use the user's.
        cache = Path(folder) if wants_start else None
        task = Task(path, backend, settings.threads, cache)
        with console.busy("reading the model"), open(path, "rb") as file:
            # Into the page cache, as the first start shall be slow for its kernels alone.
            while file.read(1 << 24):
                pass
        with console.busy("starting for the first time, which compiles kernels"):
            cold = seconds_to_first_token(task)
        if wants_start:
            with console.busy("starting"):
                warm = tuple(seconds_to_first_token(task) for _ in range(settings.rounds))
            median = statistics.median(warm)
            start = Start(cold, median, max(0.0, cold - median), warm)
        if wants_memory:
            with console.busy("looking at memory"):
                memory = measure_memory(task)
        if settings.soak:
            with console.busy(f"decoding {settings.soak:,} tokens"):
                soak = measure_soak(task, settings.soak)
    return start, memory, soak


def buffer_size(machine: Machine) -> int:
    """A GiB to read, or a quarter of what memory is available."""
    available = machine.memory_available or machine.memory or 4 * MAX_BUFFER
    return min(MAX_BUFFER, available // 4)


def measure_bandwidth(threads: int, n_bytes: int) -> float:
    """Bytes a second that this process reads."""
    from rwkv_edge.runtime.bandwidth import read_bandwidth

    with console.busy("reading memory"):
        return read_bandwidth(threads, n_bytes)


def measure_speeds(
    files: Mapping[str, Path], settings: Settings
) -> tuple[list[Measurement], dict[str, dict[str, Any]]]:
    """Speeds with all engines in memory, in turns; and what is to be known of each engine."""
    measurements: list[Measurement] = []
    if {"prefill", "decode", "batch"} <= set(settings.skip):
        return measurements, {name: {} for name in files}
    with contextlib.ExitStack() as stack:
        models = {
            name: stack.enter_context(open_model(path, name, settings.threads))
            for name, path in files.items()
        }
        rounds = settings.rounds
        if "prefill" not in settings.skip:
            for n_tokens in settings.prefill:
                with console.busy(f"prefill of {n_tokens} tokens"):
                    measurements.append(measure_prefill(models, n_tokens, rounds))
        if "decode" not in settings.skip:
            with console.busy("decode"):
                measurements.append(measure_decode(models, settings.decode, rounds))
        if "batch" not in settings.skip:
            n_steps = max(1, settings.decode // BATCH_SHARE)
            for n in settings.batch:
                with console.busy(f"decode of {n} sequences at once"):
                    measurements.append(measure_batch(models, n, n_steps, rounds))
        # llama.cpp is slower where it may not repack weights: a comparison must say so.
        engines = {
            name: {"repacks": bool(model.backend.repacks)}
            if hasattr(model.backend, "repacks")
            else {}
            for name, model in models.items()
        }
    return measurements, engines
