"""`--backend onnx` in every command: on an ONNX itself, and on a GGUF, which is exported for it."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.apps.runnable import Runnable
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.onnx import export
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.exported import file_for

from .conftest import Run
from .test_chat import Terminal

pytest.importorskip("onnxruntime")

TEXT = "A database in SQLite is a single disk file."
QUICK = ("--rounds", 1, "--prefill", "5", "--decode", 3, "--batch", "2", "--threads", 1)


@pytest.fixture(scope="session")
def onnx(gguf: Path) -> Path:
    return file_for("onnx", gguf)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files of this process and of those it starts lie in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("rwkv-edge-")]


def test_an_onnx_and_its_gguf_write_the_same_in_this_engine(
    run: Run, gguf: Path, onnx: Path, temporary: Path
) -> None:
    options = ("-n", 12, "--temperature", 0, "--threads", 1)
    direct = run("generate", onnx, TEXT, *options)
    exported = run("generate", gguf, TEXT, *options, "--backend", "onnx")
    assert (direct.code, direct.err) == (exported.code, exported.err) == (0, "")
    assert direct.out == exported.out != "\n"
    assert left_in(temporary) == []


def test_a_terminal_is_told_of_an_export(
    run: Run, gguf: Path, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "exporting" not in run("generate", onnx, "a", "-n", 1).err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    said = run("generate", gguf, "a", "-n", 1, "--backend", "onnx").err
    assert f"exporting {gguf.name} to ONNX, for this run alone; rwkv-edge convert {gguf} " in said


def test_perplexity_and_chat_run_an_onnx(run_process: Any, onnx: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 5)
    found = run_process("perplexity", onnx, text, "--json")
    assert 0 < json.loads(found.stdout)["bits_per_byte"] < 8
    answered = run_process("chat", onnx, "-n", 5, "--seed", 1, input="Hello\n")
    assert (answered.returncode, answered.stderr) == (0, "")
    assert answered.stdout.strip()


def test_compare_runs_what_it_exports_or_what_it_is_given(
    run: Run, gguf: Path, onnx: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("-n", 20, "--backends", "numba,onnx,onnx:cpu", "--threads", 1, "--json")
    exported = json.loads(run("compare", gguf, *options).out)["agreements"]
    assert [agreement["other"] for agreement in exported] == ["onnx", "onnx:cpu"]
    assert all(0 < agreement["mean_kl"] < 1e-3 for agreement in exported)
    assert left_in(temporary) == []
    # What it is given is not made again.
    monkeypatch.setattr(export, "convert_to_onnx", None)
    given = json.loads(run("compare", gguf, *options, "--onnx", onnx).out)["agreements"]
    assert given == exported


def test_compare_takes_all_engines_by_default(run: Run, gguf: Path) -> None:
    found = json.loads(run("compare", gguf, "-n", 5, "--json").out)
    engines = {agreement["other"] for agreement in found["agreements"]} | set(found["left_out"])
    assert engines == {"numba", "llama", "onnx"}


def test_compare_says_why_this_engine_is_left_out(
    run: Run, pth: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(pth, tmp_path / "m.gguf", "Q5_1")
    options = ("-n", 5, "--backends", "reference,numba,onnx")
    result = run("compare", tmp_path / "m.gguf", *options)
    assert result.code == 0
    assert result.err.startswith("onnx is left out: ")
    assert "an ONNX model holds" in result.err
    for module in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module, None)
            result = run("compare", gguf, *options)
        assert result.code == 0
        assert result.err.startswith("onnx is left out: ")
        assert 'pip install "rwkv-edge[onnx]"' in result.err


def test_compare_refuses_what_is_no_onnx_of_this_model(
    run: Run, gguf: Path, onnx: Path, tmp_path: Path
) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 64, n_vocab=256))
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    other = file_for("onnx", tmp_path / "m.gguf")
    options = ("-n", 5, "--backends", "numba,onnx")
    refused = run("compare", gguf, *options, "--onnx", other)
    assert refused.failed_with(f"{other}: is of another checkpoint than {gguf}")
    refused = run("compare", gguf, *options, "--onnx", gguf)
    assert refused.failed_with(f"{gguf}: is no ONNX; rwkv-edge convert {gguf} --onnx makes one")
    assert run("compare", onnx).failed_with("name the GGUF of this model, and")
    wrong = run("compare", gguf, "--onnx", onnx, "--backends", "numba,reference")
    assert (wrong.code, "--onnx goes with the engine onnx" in wrong.err) == (2, True)


def test_bench_measures_an_export_that_is_made_once(
    run: Run, gguf: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwkv_edge.benchmark.REST_S", 0)
    made = []
    convert_to_onnx = export.convert_to_onnx

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(arguments)
        return convert_to_onnx(*arguments, **options)

    monkeypatch.setattr(export, "convert_to_onnx", counted)
    skip = ("--skip", "start,bandwidth", "--json", "-")
    report = json.loads(run("bench", gguf, *QUICK, *skip, "--backend", "onnx").out)
    assert report["settings"]["backend"] == "onnx"
    assert report["model"]["file"] == gguf.name
    assert all(list(found["medians"]) == ["onnx"] for found in report["measurements"])
    assert len(made) == 1
    skip = ("--skip", "start,memory,bandwidth", "--json", "-")
    others = ("--against", "reference,onnx")
    report = json.loads(run("bench", gguf, *QUICK, *skip, *others).out)
    assert list(report["engines"]) == ["numba", "reference", "onnx"]
    for found in report["measurements"]:
        assert list(found["medians"]) == ["numba", "reference", "onnx"]
    assert len(made) == 2
    assert left_in(temporary) == []


def test_bench_measures_an_onnx(run: Run, onnx: Path) -> None:
    skip = ("--skip", "start,bandwidth", "--soak", 10, "--json", "-")
    report = json.loads(run("bench", onnx, *QUICK, *skip).out)
    assert report["settings"]["backend"] == "onnx"
    assert report["model"]["n_bytes"] == onnx.stat().st_size
    assert len(report["measurements"]) == 4
    assert run("bench", onnx, *QUICK, "--against", "numba").failed_with("runs GGUF files")
    assert run("bench", onnx, "--against", "llama,onnx").code == 2
    growth = run("bench", onnx, "--memory", "--alone", "--tokens", 300, "--json", "-")
    assert [point["n_tokens"] for point in json.loads(growth.out)["engines"]["onnx"]] == [256, 300]


def test_the_demo_compares_this_engine_too(run: Run, temporary: Path) -> None:
    result = run("demo")
    assert result.code == 0, result.err
    assert any(line.startswith("onnx ") for line in result.out.splitlines())
    assert left_in(temporary) == []


def test_doctor_lists_providers_and_goes_on_without_onnxruntime(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(run("doctor", "--json").out)
    assert "cpu" in found["onnx_providers"]
    assert {"onnx", "onnxruntime"} <= {package["name"] for package in found["packages"]}
    assert "providers" in run("doctor").out
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert json.loads(run("doctor", "--json").out)["onnx_providers"] == []


def test_what_was_exported_is_gone_after_a_failure(gguf: Path, temporary: Path) -> None:
    def fail() -> None:
        with Runnable(gguf) as runnable:
            first = runnable.for_engine("onnx")
            assert first == runnable.for_engine("onnx:cpu")
            assert first.is_file()
            assert left_in(temporary)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert left_in(temporary) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_what_was_exported_is_gone_after_a_signal(
    start_process: Callable[..., "subprocess.Popen[str]"],
    endless_gguf: Path,
    temporary: Path,
    command: str,
) -> None:
    arguments = {"generate": ("a", "-n", 10_000_000), "chat": ("-n", 10_000_000)}[command]
    process = start_process(
        command, endless_gguf, *arguments, "--backend", "onnx", "--temperature", 1,
        stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    if command == "chat":
        process.stdin.write("Hello\n")
        process.stdin.flush()
    assert process.stdout.read(1)
    assert left_in(temporary)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert process.returncode == 128 + signal.SIGTERM
    assert left_in(temporary) == []
    assert endless_gguf.is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
@pytest.mark.parametrize("answering", [False, True])
def test_a_signal_ends_a_conversation_that_ctrl_c_would_not_end(
    start_process: Callable[..., "subprocess.Popen[str]"],
    endless_gguf: Path,
    temporary: Path,
    answering: bool,
) -> None:
    options = ("-n", 10_000_000, "--seed", 1, "--backend", "onnx")
    terminal = Terminal(start_process, "chat", endless_gguf, *options)
    terminal.wait_for("> ")
    assert left_in(temporary)
    if answering:
        terminal.type("Hello")
        terminal.wait_for("\n")
    terminal.signal(signal.SIGTERM)
    assert terminal.process.wait(60) == 128 + signal.SIGTERM
    assert left_in(temporary) == []
