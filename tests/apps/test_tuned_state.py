"""A tuned state through the commands: converted into the file, used, and left out when asked."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.converters.checkpoints import open_checkpoint
from tests.converters.adapters.adapter_files import write_pth

from .conftest import Run

TEXT = "The database is a place where"


@pytest.fixture(scope="module")
def state(pth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matrices for the built-in model, large enough that it says other things."""
    with open_checkpoint(pth) as checkpoint:
        shapes = [shape for name, shape in checkpoint.shapes().items() if name.endswith(".r_k")]
    random = np.random.default_rng(1)
    layers = {
        f"blocks.{i}.att.time_state": random.normal(0, 2, (h, n, n)).astype(np.float32)
        for i, (h, n) in enumerate(shapes)
    }
    return write_pth(tmp_path_factory.mktemp("state") / "state.pth", layers)


@pytest.fixture
def tuned(run: Run, pth: Path, state: Path, tmp_path: Path) -> Path:
    result = run("convert", pth, "--q8", "--state", state, "-o", tmp_path / "m.gguf")
    assert result.code == 0, result.err
    return tmp_path / "m.gguf"


@pytest.mark.parametrize(
    "command",
    [
        ("generate", TEXT, "-n", "20", "--temperature", "0"),
        ("perplexity", "FILE"),
        ("compare", "--backends", "reference,numba,llama", "--prompt", TEXT),
    ],
)
def test_commands_begin_with_it_unless_they_shall_not(
    run: Run, gguf: Path, tuned: Path, state: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "text").write_text(TEXT)
    name, *options = [str(tmp_path / "text") if word == "FILE" else word for word in command]

    def shown(model: Path, *more: str) -> str:
        result = run(name, model, *options, *more)
        assert result.code == 0, result.err
        return re.sub(r"tokens per second.*", "", result.out)

    assert shown(tuned) != shown(gguf)
    assert shown(tuned, "--no-tuned-state") == shown(gguf, "--no-tuned-state") == shown(gguf)
    assert shown(gguf, "--tuned-state", str(state)) == shown(tuned)


def test_engines_still_agree(run: Run, tuned: Path) -> None:
    result = run("compare", tuned, "--prompt", TEXT, "--json")
    for agreement in json.loads(result.out)["agreements"]:
        assert agreement["mean_kl"] < 1e-3


def test_a_conversation_begins_with_it_unless_it_shall_not(
    run: Run,
    gguf: Path,
    tuned: Path,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def answer(model: Path, *options: str) -> str:
        (tmp_path / "questions").write_text("What is it?\n")
        with open(tmp_path / "questions") as questions:
            monkeypatch.setattr("sys.stdin", questions)
            result = run("chat", model, "-n", 20, "--temperature", 0, *options)
        assert result.code == 0, result.err
        return result.out

    assert answer(tuned) != answer(gguf)
    assert answer(tuned, "--no-tuned-state") == answer(gguf)
    assert answer(gguf, "--tuned-state", str(state)) == answer(tuned)


def test_a_state_to_convert_alone_is_one_line(run: Run, state: Path) -> None:
    assert run("convert", state).failed_with("rwkv-edge convert MODEL --state FILE")


def test_a_state_that_does_not_fit_the_model_is_one_line(
    run: Run, gguf: Path, endless_gguf: Path, state: Path
) -> None:
    result = run("generate", endless_gguf, TEXT, "--tuned-state", state)
    assert result.failed_with(f"{state}: ")
    assert run("generate", gguf, TEXT, "--tuned-state", "nowhere").failed_with("no such file")
    both = run("chat", gguf, "--tuned-state", state, "--no-tuned-state")
    assert both.code == 2
    assert "exclude each other" in both.err
