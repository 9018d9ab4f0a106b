"""`compare`, `perplexity`, `doctor` and `demo`."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest

from rwkv_edge import Model
from rwkv_edge.builtin import heldout_path
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.perplexity import measure_perplexity

from .conftest import Run

TEXT = "A database in SQLite is a single disk file."
has_llama = importlib.util.find_spec("llama_cpp") is not None


def test_compare_shows_one_row_for_each_other_engine(run: Run, gguf: Path) -> None:
    result = run("compare", gguf, "--prompt", TEXT, "--backends", "numba,reference")
    assert result.code == 0, result.err
    caption, heading, _, *rows = result.out.splitlines()
    assert caption.startswith("Logits against reference")
    assert heading.startswith("engine")
    assert [row.split()[0] for row in rows] == ["numba"]
    # An ordinary terminal shows it whole.
    assert max(map(len, result.out.splitlines())) <= 80


def test_compare_gives_json(run: Run, gguf: Path) -> None:
    result = run("compare", gguf, "-n", 20, "--backends", "numba,reference", "--json")
    found = json.loads(result.out)
    (agreement,) = found["agreements"]
    assert (agreement["baseline"], agreement["other"]) == ("reference", "numba")
    assert agreement["n_tokens"] == 20
    # Q8_0 weights; numba also rounds activations to 8 bits.
    assert 0 < agreement["relative_difference"] < 0.02


@pytest.mark.skipif(not has_llama, reason="llama-cpp-python is not installed")
def test_compare_takes_the_first_engine_as_baseline_without_a_reference(
    run: Run, gguf: Path
) -> None:
    result = run("compare", gguf, "-n", 20, "--backends", "llama,numba", "--json")
    (agreement,) = json.loads(result.out)["agreements"]
    assert (agreement["baseline"], agreement["other"]) == ("llama", "numba")
    assert agreement["mean_kl"] < 1e-3


def test_compare_says_which_engine_is_not_installed_and_goes_on(
    run: Run, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    result = run("compare", gguf, "-n", 10)
    assert result.code == 0
    assert result.err.startswith("llama is left out: ")
    assert "numba" in result.out
    assert "llama" not in result.out
    found = json.loads(run("compare", gguf, "-n", 10, "--json").out)
    assert list(found["left_out"]) == ["llama"]


def test_compare_goes_on_without_an_engine_that_does_not_know_the_version(
    run: Run, tmp_path: Path
) -> None:
    hp = synthetic_hyperparameters(1, 64, version="4", n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    result = run("compare", tmp_path / "m.gguf", "-n", 10)
    assert result.code == 0
    assert result.err.startswith("llama is left out: ")
    assert "numba" in result.out
    only = run("compare", tmp_path / "m.gguf", "--backends", "llama")
    assert only.failed_with("llama")


def test_compare_needs_two_engines(run: Run, gguf: Path) -> None:
    assert run("compare", gguf, "--backends", "numba").failed_with("needs two")
    assert run("compare", gguf, "--backends", ",").failed_with("needs two")
    assert run("compare", gguf, "--backends", "numba,abacus").failed_with("does not exist")


def test_compare_needs_text(run: Run, gguf: Path) -> None:
    assert run("compare", gguf, "--prompt", "").failed_with("no text")


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_perplexity_is_that_of_the_library(
    run: Run, gguf: Path, tmp_path: Path, backend: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(heldout_path().read_bytes()[:2000])
    result = run("perplexity", gguf, text, "--json", "--backend", backend)
    found = json.loads(result.out)
    with Model.load(gguf, backend) as model:
        wanted = measure_perplexity(model, io.BytesIO(text.read_bytes()))
    assert found["bits_per_byte"] == pytest.approx(wanted.bits_per_byte, rel=1e-9)
    assert found["n_bytes"] == 2000
    shown = run("perplexity", gguf, text, "--backend", backend).out
    assert f"bits per byte      {wanted.bits_per_byte:.4f}" in shown


def test_perplexity_of_an_empty_file_is_one_line(run: Run, gguf: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert run("perplexity", gguf, empty).failed_with(f"{empty}: there is no text")


def test_doctor_says_what_decides_speed(run: Run) -> None:
    result = run("doctor")
    assert result.code == 0
    for fact in ("CPU", "kernels", "threads", "memory", "kernel cache", "numba", "tier"):
        assert fact in result.out
    found = json.loads(run("doctor", "--json").out)
    assert found["threads"] >= 1
    assert found["tier"]
    assert {package["name"] for package in found["packages"]} >= {"numpy", "llama-cpp-python"}


def test_doctor_warm_leaves_kernels_on_disk(run: Run) -> None:
    found = json.loads(run("doctor", "--warm", "--json").out)
    assert found["kernels_compiled"] is True
    assert found["kernel_cache_bytes"] > 0
    from rwkv_edge import jit

    packages = ("runtime", "converters")
    files = [file.name for p in packages for file in jit.kernel_cache_path(p).glob("*.nbc")]
    kept = {name.split("-")[0] for name in files}
    # The last that a forward pass needs, and what not every model or command needs.
    assert kept >= {
        "rwkv7.forward", "longest_match.longest_match", "read_bandwidth.sum_of",
        "floats.widen_f16", "floats.widen_bf16", "q4_0.encode_q4_0", "q8_0.encode_q8_0",
    }  # fmt: skip


def test_doctor_clears_the_cache(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rwkv_edge import jit

    monkeypatch.setattr(jit, "cache_directory", lambda: tmp_path)
    folder = tmp_path / f"runtime-avx2-{'0' * 16}"
    folder.mkdir()
    (folder / "a.nbc").write_bytes(b"kernel")
    (tmp_path / "notes.txt").write_text("mine")
    assert json.loads(run("doctor", "--json").out)["kernel_cache_bytes"] == 10
    assert json.loads(run("doctor", "--clear-cache", "--json").out)["kernel_cache_bytes"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_doctor_reports_a_tier_that_does_not_exist(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwkv_edge.runtime.simd import cpu

    monkeypatch.setattr(cpu, "forced_tier", lambda: "abacus")
    cpu.tier.cache_clear()
    try:
        assert run("doctor").failed_with("abacus")
    finally:
        cpu.tier.cache_clear()


def test_demo_tells_the_whole_story(run: Run) -> None:
    result = run("demo")
    assert result.code == 0, result.err
    assert "1. Convert" in result.out
    assert "2. Continue" in result.out
    assert "3. The same" in result.out
    assert "against reference" in result.out
    assert "numba" in result.out


def test_demo_says_which_engine_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    result = run("demo")
    assert result.code == 0
    assert "llama is left out" in result.out
