"""`bench --memory`: few tokens in a small model, and what it leaves for programs to read."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.apps import memory_benchmark
from rwkv_edge.apps.memory_benchmark import DECODED, points_to, watch
from rwkv_edge.errors import RwkvEdgeError

from .conftest import Run

has_llama = importlib.util.find_spec("llama_cpp") is not None
has_proc = os.path.exists("/proc/self/status")


def test_points_double_and_end_with_the_last() -> None:
    assert points_to(256) == [256]
    assert points_to(257) == [256, 257]
    assert points_to(3000) == [256, 512, 1024, 2048, 3000]


@pytest.mark.skipif(not has_llama, reason="llama-cpp-python is not installed")
def test_a_model_and_a_transformer_are_measured_at_the_same_points(
    run: Run, endless_gguf: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    options = ("--memory", "--tokens", 600, "--threads", 1, "--json", out)
    result = run("bench", endless_gguf, *options)
    assert (result.code, result.err) == (0, "")
    heading = result.out.splitlines()[2].split()
    assert heading == ["tokens", "numba", "memory", "decode", "prefill", "transformer", "memory",
                       "decode", "prefill"]  # fmt: skip
    report = json.loads(out.read_text())
    assert (report["format"], report["kind"], report["n_tokens"]) == (1, "memory", 600)
    assert list(report["engines"]) == ["numba", "transformer"]
    for points in report["engines"].values():
        assert [point["n_tokens"] for point in points] == [256, 512, 600]
        for point in points:
            assert point["decode"] > 0
            assert point["read"] > 0
            assert point["resident"] is None or 1e7 < point["resident"] <= point["peak"]
    transformer, model = report["transformer"], report["model"]
    assert transformer["n_embd"] == model["hyperparameters"]["n_embd"] == 64
    assert transformer["cache_bytes_per_token"] == 2 * 2 * 64 * 2
    assert "stopped" not in transformer
    # It may be shown to others.
    assert str(endless_gguf.parent) not in out.read_text()


def test_alone_there_is_no_transformer(run: Run, endless_gguf: Path) -> None:
    options = ("--memory", "--tokens", 256, "--alone", "--json", "-")
    report = json.loads(run("bench", endless_gguf, *options).out)
    assert list(report["engines"]) == ["numba"]
    assert report["transformer"] is None


def test_where_llama_cpp_is_missing_that_is_said(
    run: Run, endless_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = memory_benchmark.describe_versions

    def without_llama(machine: Any) -> dict[str, str]:
        return {k: v for k, v in described(machine).items() if k != memory_benchmark.PACKAGE}

    monkeypatch.setattr(memory_benchmark, "describe_versions", without_llama)
    result = run("bench", endless_gguf, "--memory", "--tokens", 256)
    assert result.code == 0
    assert "llama-cpp-python is not installed" in result.err
    assert "transformer" not in result.out


def test_a_transformer_that_stops_keeps_what_was_found(
    run: Run, endless_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = memory_benchmark.run

    def short_of_memory(engine: str, path: Path, *rest: Any) -> Any:
        yield from points("numba", endless_gguf, *rest[:2], 256)
        if engine == "transformer":
            raise RwkvEdgeError(f"{path}: there is not enough memory")

    monkeypatch.setattr(memory_benchmark, "run", short_of_memory)
    options = ("--memory", "--tokens", 512, "--json", "-")
    result = run("bench", endless_gguf, *options)
    report = json.loads(result.out)
    assert report["transformer"]["stopped"] == "/transformer.gguf: there is not enough memory"
    assert len(report["engines"]["transformer"]) == 1


@pytest.mark.skipif(not has_proc, reason="reads /proc")
def test_a_models_memory_stays_the_same(run: Run, endless_gguf: Path) -> None:
    options = ("--memory", "--tokens", 8192, "--alone", "--json", "-")
    report = json.loads(run("bench", endless_gguf, *options).out)
    sizes = [point["resident"] for point in report["engines"]["numba"]]
    # After the first points, when all that is made on demand is there.
    assert max(sizes[2:]) - min(sizes[2:]) < 1_000_000


def test_every_token_is_read_once_and_the_last_are_decoded() -> None:
    read: list[int] = []
    rooms: list[int] = []
    found = list(watch(lambda tokens: read.append(len(tokens)), 7, [256, 1500], rooms.append))
    assert sum(read) == 1500
    assert read[-DECODED:] == [1] * DECODED
    assert max(read) == 512
    assert rooms == [point.n_tokens for point in found] == [256, 1500]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "--tokens", "255"], "--tokens is 255; it takes at least 256"),
        (["--memory", "--backend", "abacus"], "backend 'abacus' does not exist"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    run: Run, endless_gguf: Path, options: list[str], message: str
) -> None:
    assert run("bench", endless_gguf, *options).failed_with(message)


def test_options_of_the_other_measurements_do_not_go_with_it(run: Run) -> None:
    result = run("bench", "m.gguf", "--alone")
    assert result.code == 2
    assert "--tokens and --alone go with --memory" in result.err


@pytest.mark.skipif(sys.platform == "win32", reason="there are no processes to look for")
def test_a_reading_that_is_given_up_leaves_no_process(endless_gguf: Path) -> None:
    points = memory_benchmark.run("numba", endless_gguf, 256, 1, 1 << 40)
    next(points)
    points.close()  # type: ignore[attr-defined]
    # Would wait for ever on a process that goes on.
    assert list(points) == []
