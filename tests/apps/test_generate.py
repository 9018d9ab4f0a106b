"""`rwkv-edge generate`, of a prompt; `test_documents.py` has the documents."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from rwkv_edge import Model

from .conftest import Run

PROMPT = "The database"


def test_the_text_is_that_of_the_library(run: Run, gguf: Path) -> None:
    result = run("generate", gguf, PROMPT, "-n", 30, "--seed", 5, "--top-p", 0.5)
    with Model.load(gguf) as model:
        wanted = model.generate(PROMPT, max_tokens=30, seed=5, top_p=0.5)
    assert (result.code, result.out) == (0, wanted + "\n")
    assert result.err == ""


def test_temperature_0_needs_no_seed_to_repeat_itself(run: Run, gguf: Path) -> None:
    first, again = (
        run("generate", gguf, PROMPT, "-n", 20, "--temperature", 0, "--threads", threads)
        for threads in (1, 2)
    )
    assert first.out == again.out != ""


def test_json_gives_text_tokens_and_why_it_ended(run: Run, endless_gguf: Path) -> None:
    result = run("generate", endless_gguf, PROMPT, "-n", 12, "--seed", 1, "--json")
    found = json.loads(result.out)
    plain = run("generate", endless_gguf, PROMPT, "-n", 12, "--seed", 1)
    assert found["text"] + "\n" == plain.out
    assert len(found["tokens"]) == 12
    assert found["finish_reason"] == "length"
    assert found["n_prompt_tokens"] == len(PROMPT)
    assert found["seconds"] > 0


def test_a_stop_text_ends_it_and_is_not_shown(run: Run, gguf: Path) -> None:
    whole = run("generate", gguf, PROMPT, "-n", 40, "--temperature", 0).out
    stop = whole.strip()[10:14]
    found = run("generate", gguf, PROMPT, "-n", 40, "--temperature", 0, "--stop", stop, "--json")
    text = json.loads(found.out)["text"]
    assert json.loads(found.out)["finish_reason"] == "stop"
    assert text == whole[: whole.index(stop)]


def test_the_prompt_can_come_from_a_file(run: Run, gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT)
    options = ("-n", 10, "--seed", 1)
    assert (
        run("generate", gguf, "--file", file, *options).out
        == run("generate", gguf, PROMPT, *options).out
    )


def test_the_prompt_can_come_from_stdin(
    run_process: Callable[..., "CompletedProcess[str]"], run: Run, gguf: Path
) -> None:
    options = ("-n", 10, "--seed", 1)
    piped = run_process("generate", gguf, "-", *options, input=PROMPT)
    assert piped.returncode == 0
    assert piped.stdout == run("generate", gguf, PROMPT, *options).out


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_a_saved_state_goes_on_where_the_text_ended(
    run: Run, gguf: Path, tmp_path: Path, backend: str
) -> None:
    greedy = ("--temperature", 0, "--backend", backend)
    state = tmp_path / "a.state"
    assert run("generate", gguf, PROMPT, "-n", 10, "--save-state", state, *greedy).code == 0
    resumed = run("generate", gguf, " and", "-n", 10, "--state", state, *greedy)
    with Model.load(gguf, backend) as model:
        first = model.stream(PROMPT, max_tokens=10, temperature=0)
        list(first)
        wanted = model.generate(" and", max_tokens=10, temperature=0, state=first.state)
    assert resumed.out == wanted + "\n"
    assert resumed.err == ""


def test_a_state_of_another_model_is_one_line(run: Run, gguf: Path, tmp_path: Path) -> None:
    from rwkv_edge.converters.convert import convert
    from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic

    write_synthetic(tmp_path / "o.pth", synthetic_hyperparameters(2, 64, n_vocab=256))
    convert(tmp_path / "o.pth", tmp_path / "o.gguf", "F32")
    state = tmp_path / "a.state"
    assert run("generate", gguf, PROMPT, "-n", 1, "--save-state", state).code == 0
    other = run("generate", tmp_path / "o.gguf", "a", "--state", state, "--backend", "reference")
    assert other.failed_with(f"{state}: a state of shape")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "seed is -1"),
        (["--temperature", "-0.5"], "temperature is -0.5"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--top-p", "1.5"], "top_p is 1.5"),
        (["--top-k", "-1"], "top_k is -1"),
        (["--min-p", "2"], "min_p is 2"),
        (["--presence-penalty", "inf"], "presence_penalty is inf"),
        (["--state", "nowhere.state"], "nowhere.state: No such file"),
    ],
)
def test_an_option_out_of_its_range_is_one_line(
    run: Run, gguf: Path, options: list[str], message: str
) -> None:
    assert run("generate", gguf, PROMPT, *options).failed_with(message)


@pytest.mark.parametrize("source", ["argument", "file"])
def test_an_empty_prompt_is_one_line(run: Run, gguf: Path, tmp_path: Path, source: str) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    prompt = [""] if source == "argument" else ["--file", str(empty)]
    assert run("generate", gguf, *prompt).failed_with("the prompt is empty")


def test_a_state_that_does_not_fit_on_the_disk_is_one_line(
    run: Run, gguf: Path, tiny_disk: Path
) -> None:
    state = tiny_disk / "a.state"
    result = run("generate", gguf, PROMPT, "-n", 1, "--save-state", state)
    assert result.code == 1
    assert result.err == f"rwkv-edge: {state}: No space left on device\n"
    assert list(tiny_disk.iterdir()) == []
