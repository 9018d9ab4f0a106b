"""A state file that one engine saved, gone on from by another, on the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from rwkv_edge import Model
from rwkv_edge.builtin import checkpoint_path
from rwkv_edge.converters.convert import convert

pytest.importorskip("llama_cpp")

PROMPT, MORE = "The database file is", " and then"
ENGINES = [("numba", "llama"), ("llama", "numba")]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32 engines differ by rounding alone, which moves no greedy choice of this text."""
    path = tmp_path_factory.mktemp("engines") / "model.gguf"
    convert(checkpoint_path(), path, "F32")
    return path


def run(*arguments: object, text: str = "") -> str:
    command = [sys.executable, "-m", "rwkv_edge.apps.cli", *map(str, arguments)]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("saves", "loads"), ENGINES)
def test_generate_goes_on_from_the_state_of_another_engine(
    gguf: Path, tmp_path: Path, saves: str, loads: str
) -> None:
    greedy, state = ("-n", 20, "--temperature", 0), tmp_path / "a.state"
    run("generate", gguf, PROMPT, *greedy, "--save-state", state, "--backend", saves)
    found = run("generate", gguf, MORE, *greedy, "--state", state, "--backend", loads)
    with Model.load(gguf, saves) as model:
        first = model.stream(PROMPT, max_tokens=20, temperature=0)
        list(first)
        wanted = model.generate(MORE, max_tokens=20, temperature=0, state=first.state)
        afresh = model.generate(MORE, max_tokens=20, temperature=0)
    assert found == wanted + "\n"
    assert found != afresh + "\n"


@pytest.mark.parametrize(("saves", "loads"), ENGINES)
def test_chat_goes_on_from_the_conversation_of_another_engine(
    gguf: Path, tmp_path: Path, saves: str, loads: str
) -> None:
    options, state = ("--temperature", 0, "--max-tokens", 20), tmp_path / "a.state"
    asked = f"What is a table?\n/save {state}\nAnd then?\n"
    stayed = run("chat", gguf, *options, "--backend", saves, text=asked)
    moved = run("chat", gguf, *options, "--backend", loads, "--load", state, text="And then?\n")
    afresh = run("chat", gguf, *options, "--backend", saves, text="And then?\n")
    assert stayed.endswith(moved)
    assert moved.strip() not in ("", afresh.strip())
