"""`rwkv-edge bench`."""

from pathlib import Path
from typing import Annotated

import typer

from rwkv_edge.apps import console, options
from rwkv_edge.apps.benchmark import PARTS, Bandwidth, Report, Settings, Start
from rwkv_edge.apps.benchmark import run_benchmark as run
from rwkv_edge.apps.failures import naming
from rwkv_edge.apps.fresh_process import Memory, Soak
from rwkv_edge.apps.memory_benchmark import (
    DEFAULT_TOKENS,
    TRANSFORMER,
    MemoryReport,
    measure_growth,
)
from rwkv_edge.apps.runnable import ONNX
from rwkv_edge.atomic_file import atomic_write
from rwkv_edge.benchmark import Measurement
from rwkv_edge.errors import InputError

STDOUT = Path("-")


def bench(
    model_path: options.ModelPath,
    prefill: Annotated[
        str, typer.Option(metavar="N,N", help="Lengths of the prompts to read, in tokens.")
    ] = "32,128,512,2048",
    decode: Annotated[int, typer.Option(min=1, help="Tokens to decode for one sample.")] = 64,
    batch: Annotated[
        str, typer.Option(metavar="N,N", help="Numbers of sequences to decode together.")
    ] = "1,4,8,16",
    rounds: Annotated[
        int, typer.Option(min=1, help="Samples of each, after a warm-up; the median counts.")
    ] = 5,
    against: Annotated[
        str | None,
        typer.Option(metavar="ENGINE,ENGINE", help="Others to take turns with: llama, onnx."),
    ] = None,
    soak: Annotated[
        int, typer.Option(min=0, help="Also decode so many tokens and watch memory.")
    ] = 0,
    skip: Annotated[
        str, typer.Option(metavar="PART,PART", help=f"Leave out some of: {', '.join(PARTS)}.")
    ] = "",
    memory: Annotated[
        bool,
        typer.Option(
            "--memory",
            help="Instead: memory and speed by tokens seen, beside a Transformer in llama.cpp.",
        ),
    ] = False,
    tokens: Annotated[
        int, typer.Option(min=1, help="With --memory: how many tokens they see.")
    ] = DEFAULT_TOKENS,
    alone: Annotated[
        bool, typer.Option("--alone", help="With --memory: without the Transformer.")
    ] = False,
    backend: options.Backend = None,
    threads: options.Threads = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write every sample there; - is stdout."),
    ] = None,
) -> None:
    """Measure speed, start-up and memory.

    Prompts, decoding, loading and memory; some minutes for a large model.
    """
    itself = backend or by_name(model_path)
    if against is not None and itself in options.engine_names(against):
        raise typer.BadParameter(f"--against {itself} is the engine that is measured itself")
    if not memory and (alone or tokens != DEFAULT_TOKENS):
        raise typer.BadParameter("--tokens and --alone go with --memory")
    settings = Settings(
        backend=backend,
        against=against,
        threads=threads,
        rounds=rounds,
        prefill=counts(prefill, "--prefill"),
        decode=decode,
        batch=counts(batch, "--batch"),
        soak=soak,
        skip=parts(skip),
    )
    if json_file is not None and json_file != STDOUT and not json_file.parent.is_dir():
        # Found now rather than after minutes of work.
        raise InputError(f"{json_file}: its folder does not exist; make it first")
    report: Report | MemoryReport
    if memory:
        report = measure_growth(model_path, backend, threads, tokens, alone=alone)
    else:
        report = run(model_path, settings)
    if json_file == STDOUT:
        console.write_json(report)
        return
    if json_file is not None:
        with naming(json_file), atomic_write(json_file) as file:
            file.write(f"{console.json_text(report)}\n".encode())
    if isinstance(report, MemoryReport):
        show_growth(report)
    else:
        show(report)


def by_name(path: Path) -> str:
    """The engine that a file of this name takes, most likely."""
    return ONNX if path.suffix.lower() == ".onnx" else "numba"


def counts(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers above 0 out of "32,128"; raises BadParameter for anything else."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if not (word.isascii() and word.isdecimal() and int(word) > 0):
            raise typer.BadParameter(f"{option} takes whole numbers such as 32,128, not {word!r}")
    return tuple(dict.fromkeys(map(int, words)))


def parts(text: str) -> tuple[str, ...]:
    """Names of what to leave out; raises BadParameter for what does not exist."""
    names = [word.strip() for word in text.split(",") if word.strip()]
    for name in names:
        if name not in PARTS:
            raise typer.BadParameter(f"--skip knows {', '.join(PARTS)}, not {name!r}")
    return tuple(dict.fromkeys(names))


def show(report: Report) -> None:
    """For a person."""
    hp, machine = report.model["hyperparameters"], report.machine
    forced = " (forced)" if machine["tier_is_forced"] else ""
    print(
        f"{report.model['file']}: RWKV-{hp['version']}, {hp['n_layer']} layers of {hp['n_embd']}, "
        f"{report.model['file_type']}; {machine['cpu']}, tier {machine['tier']}{forced}; "
        f"medians of {report.settings.rounds}"
    )
    engines = list(report.engines)
    if report.measurements:
        console.write_table(
            ("", *engines, *(["ratio"] if len(engines) == 2 else [])),
            [row(found, engines) for found in report.measurements],
        )
    facts: dict[str, str] = {}
    if report.bandwidth is not None:
        facts |= bandwidth_facts(report.bandwidth, report.model["bytes_per_token"])
    if report.start is not None:
        facts |= start_facts(report.start)
    if report.memory is not None:
        facts |= memory_facts(report.memory)
    if report.soak is not None:
        facts |= soak_facts(report.soak)
    if facts:
        console.write_facts(facts)
    if not report.engines.get("llama", {}).get("repacks", True):
        console.note("llama.cpp ran without its repacked weights; docs/performance.md says why")


def show_growth(report: MemoryReport) -> None:
    """Memory and speed by tokens seen, for a person."""
    hp = report.model["hyperparameters"]
    print(
        f"{report.model['file']}: RWKV-{hp['version']}, {report.model['n_parameters']:,} "
        f"parameters, {report.model['file_type']}; {report.machine['cpu']}"
    )
    if report.transformer is not None:
        print(
            f"{TRANSFORMER}: {report.transformer['n_parameters']:,} parameters, keeps "
            f"{console.human_bytes(report.transformer['cache_bytes_per_token'])} a token"
        )
    headings = ["tokens"]
    for name in report.engines:
        headings += [f"{name} memory", "decode", "prefill"]
    rows = []
    for i, n_tokens in enumerate(sorted({p.n_tokens for f in report.engines.values() for p in f})):
        cells = [f"{n_tokens:,}"]
        for found in report.engines.values():
            if i < len(found):
                memory = found[i].resident
                cells += [size(memory), f"{found[i].decode:.1f}", f"{found[i].read:.1f}"]
            else:
                cells += [""] * 3
        rows.append(cells)
    console.write_table(headings, rows, n_left=0)


def row(found: Measurement, engines: list[str]) -> list[str]:
    """One line of the table."""
    titles = {
        "prefill": f"prefill of {found.size}",
        "decode": "decode",
        "batch": f"decode of {found.size} at once",
        "load": "load",
    }
    cells = [titles[found.what]]
    digits = 1 if found.unit == "tok/s" else 2
    cells += [f"{found.medians[name]:.{digits}f} {found.unit}" for name in engines]
    if len(engines) == 2:
        cells.append("" if found.ratio is None else f"{found.ratio:.2f}")
    return cells


def bandwidth_facts(bandwidth: Bandwidth, bytes_per_token: int) -> dict[str, str]:
    """How near decoding comes to what memory allows."""
    speed = bandwidth.bytes_per_second / 1e9
    facts = {
        "memory reads": f"{speed:.1f} GB/s, threads: {bandwidth.threads}",
        "a token reads": f"{console.human_bytes(bytes_per_token)} of weights, if none is skipped",
        "which allows": f"{bandwidth.decode_limit:.1f} tok/s",
    }
    if bandwidth.decode_share is not None:
        facts["decode reaches"] = f"{100 * bandwidth.decode_share:.0f} % of that"
    return facts


def start_facts(start: Start) -> dict[str, str]:
    """From process start to first token."""
    return {
        "first token": f"{start.warm:.2f} s after the process starts",
        "first start": f"{start.cold:.1f} s, of which {start.compiling:.1f} s compile kernels",
    }


def memory_facts(memory: Memory) -> dict[str, str]:
    """Resident memory of a fresh process."""
    return {"memory": f"{size(memory.steady)} while it decodes, {size(memory.peak)} at most"}


def soak_facts(soak: Soak) -> dict[str, str]:
    """Whether memory grows."""
    return {
        f"{soak.n_tokens:,} tokens": f"memory {size(soak.start)} before, {size(soak.end)} after"
    }


def size(n_bytes: int | None) -> str:
    """Bytes for people, or that they are not known."""
    return "unknown" if n_bytes is None else console.human_bytes(n_bytes)
