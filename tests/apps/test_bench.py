"""`bench`: small numbers on a small model, and what it leaves for programs to read."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge import Model
from rwkv_edge.apps.benchmark import PARTS
from rwkv_edge.apps.fresh_process import Task
from rwkv_edge.runtime.simd.cpu import present_tiers

from .conftest import Run

SMALL = ("--rounds", 2, "--prefill", "3,5", "--decode", 4, "--batch", "1,3")
# What takes a process of its own each time.
QUICK = (*SMALL, "--skip", "start,memory,bandwidth")
has_llama = importlib.util.find_spec("llama_cpp") is not None
has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_edge.benchmark.REST_S", 0)
    monkeypatch.setattr("rwkv_edge.apps.benchmark.MAX_BUFFER", 1 << 20)


def measured(report: dict[str, Any]) -> list[tuple[str, int]]:
    return [(found["what"], found["size"]) for found in report["measurements"]]


def test_everything_is_measured_and_written_whole(
    run: Run, endless_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else a first start would compile everything; that one looks like a warm one here.
    monkeypatch.setattr("rwkv_edge.apps.benchmark.Task", task_with_the_users_cache())
    out = tmp_path / "report.json"
    result = run("bench", endless_gguf, *SMALL, "--soak", 20, "--threads", 2, "--json", out)
    assert result.code == 0, result.err
    for line in ("prefill of 5", "decode of 3 at once", "memory reads", "first token", "20 tokens"):
        assert line in result.out
    assert max(map(len, result.out.splitlines())) <= 100

    assert os.listdir(tmp_path) == ["report.json"]
    report = json.loads(out.read_text())
    assert set(report) == {
        "format", "date", "machine", "versions", "model", "settings", "engines", "measurements",
        "start", "memory", "soak", "bandwidth",
    }  # fmt: skip
    assert report["format"] == 1
    assert measured(report) == [
        ("load", 1), ("prefill", 3), ("prefill", 5), ("decode", 4), ("batch", 1), ("batch", 3)
    ]  # fmt: skip
    for found in report["measurements"]:
        assert len(found["samples"]["numba"]) == 2
        assert found["medians"]["numba"] == pytest.approx(sum(found["samples"]["numba"]) / 2)
    assert report["settings"]["threads"] == report["bandwidth"]["threads"] == 2
    assert report["model"]["hyperparameters"]["n_layer"] == 2
    assert report["model"]["n_bytes"] == endless_gguf.stat().st_size
    assert report["model"]["n_parameters"] == Model.load(endless_gguf).info.n_parameters
    assert report["start"]["cold"] > 0
    assert len(report["start"]["warm_samples"]) == 2
    assert report["machine"]["tier_is_forced"] is bool(os.environ.get("RWKV_EDGE_CPU"))
    bandwidth = report["bandwidth"]
    limit = bandwidth["bytes_per_second"] / report["model"]["bytes_per_token"]
    assert bandwidth["decode_limit"] == pytest.approx(limit)
    (decode,) = [found for found in report["measurements"] if found["what"] == "decode"]
    assert bandwidth["decode_share"] == pytest.approx(decode["medians"]["numba"] / limit)
    if os.path.exists("/proc/self/status"):
        assert 1e7 < report["memory"]["steady"] <= report["memory"]["peak"]
        assert report["soak"]["highest"] >= report["soak"]["end"] > 0
    # It may be shown to others.
    assert str(endless_gguf.parent) not in out.read_text()
    assert str(Path.home()) not in out.read_text()


def task_with_the_users_cache() -> Callable[..., Task]:
    return lambda path, backend, threads, cache: Task(path, backend, threads, None)


def test_json_goes_alone_to_stdout(run: Run, endless_gguf: Path) -> None:
    result = run("bench", endless_gguf, *QUICK, "--json", "-")
    assert result.code == 0, result.err
    assert json.loads(result.out)["settings"]["rounds"] == 2


def test_what_is_skipped_is_null_or_not_there(run: Run, endless_gguf: Path) -> None:
    result = run("bench", endless_gguf, *SMALL, "--skip", ",".join(PARTS), "--json", "-")
    report = json.loads(result.out)
    assert measured(report) == []
    assert report["start"] is report["memory"] is report["soak"] is report["bandwidth"] is None
    skip = "start,memory,load,bandwidth,prefill"
    report = json.loads(run("bench", endless_gguf, *SMALL, "--skip", skip, "--json", "-").out)
    assert measured(report) == [("decode", 4), ("batch", 1), ("batch", 3)]


@pytest.mark.skipif(not has_llama, reason="llama-cpp-python is not installed")
def test_against_llama_shows_a_ratio(run: Run, endless_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    result = run("bench", endless_gguf, *QUICK, "--threads", 1, "--against", "llama", "--json", out)
    assert result.code == 0, result.err
    heading = result.out.splitlines()[1].split()
    assert heading == ["numba", "llama", "ratio"]
    report = json.loads(out.read_text())
    assert isinstance(report["engines"]["llama"]["repacks"], bool)
    for found in report["measurements"]:
        numba, llama = found["medians"]["numba"], found["medians"]["llama"]
        wanted = pytest.approx(numba / llama) if found["unit"] == "tok/s" else None
        assert found["ratio"] == wanted


@pytest.mark.skipif(not has_onnx, reason="onnx and onnxruntime are not installed")
def test_several_others_are_shown_without_a_ratio(run: Run, endless_gguf: Path) -> None:
    others = ("--against", "reference,onnx", "--threads", 1)
    result = run("bench", endless_gguf, *QUICK, *others)
    assert result.code == 0, result.err
    assert result.out.splitlines()[1].split() == ["numba", "reference", "onnx"]
    assert run("bench", endless_gguf, "--against", "llama,numba").code == 2


def test_an_engine_that_is_not_there_is_one_line(
    run: Run, endless_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("bench", endless_gguf, *QUICK, "--against", "abacus")
    assert result.failed_with("backend 'abacus' does not exist")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    result = run("bench", endless_gguf, *QUICK, "--against", "llama")
    assert result.failed_with('pip install "rwkv-edge[llama]"')


def test_a_fresh_process_that_fails_is_one_line(run: Run, endless_gguf: Path) -> None:
    result = run("bench", endless_gguf, *SMALL, "--backend", "abacus")
    assert result.failed_with("a fresh process failed: backend 'abacus' does not exist")


def test_a_folder_for_the_report_that_does_not_exist_is_found_at_once(
    run: Run, endless_gguf: Path, tmp_path: Path
) -> None:
    result = run("bench", endless_gguf, *QUICK, "--json", tmp_path / "missing" / "report.json")
    assert result.failed_with("its folder does not exist")


def test_a_report_that_cannot_be_written_is_one_line(
    run: Run, endless_gguf: Path, tmp_path: Path
) -> None:
    skip_all = (*SMALL, "--skip", ",".join(PARTS))
    assert run("bench", endless_gguf, *skip_all, "--json", tmp_path).failed_with(f"{tmp_path}: ")


@pytest.mark.skipif("avx2" not in present_tiers(), reason="this CPU has no other tier to force")
def test_a_forced_tier_is_named(
    run_process: Callable[..., Any], endless_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWKV_EDGE_CPU", "generic")
    skip_all = (*SMALL, "--skip", ",".join(PARTS))
    result = run_process("bench", endless_gguf, *skip_all, "--json", "-")
    machine = json.loads(result.stdout)["machine"]
    assert (machine["tier"], machine["tier_is_forced"]) == ("generic", True)
    assert "avx2" in machine["features"]
    assert "tier generic (forced)" in run_process("bench", endless_gguf, *skip_all).stdout
