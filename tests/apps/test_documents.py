"""`rwkv-edge generate --file`: long documents, stopped and gone on with."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import InputError, Model
from rwkv_edge.apps import documents
from rwkv_edge.apps.documents import Checkpoints
from rwkv_edge.builtin import heldout_path
from rwkv_edge.tokenizers import WorldTokenizer
from rwkv_edge.tokenizers.sections import SECTION_TOKENS

from .conftest import Run

TEXT = heldout_path().read_bytes()[:6000]
GREEDY = ("--temperature", 0)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dull name: pytest's own holds the test's, which a `match` would find."""
    return tmp_path_factory.mktemp("d")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes(TEXT)
    return path


def generated(model_path: Path, prompt: bytes, **options: Any) -> str:
    with Model.load(model_path) as model:
        return model.generate(prompt, temperature=0, **options)


def same_arrays(model_path: Path, state: Path, text: bytes) -> bool:
    """Whether the saved state is that after the whole text at once."""
    with Model.load(model_path) as model:
        _, wanted = model.forward(model.tokenizer.encode(text))
        found = model.load_state(state).to_arrays()
        return all(np.array_equal(found[n], array) for n, array in wanted.to_arrays().items())


def position_in(state: Path) -> dict[str, Any]:
    raw = state.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["position"])
    return found


def test_a_document_is_continued_as_a_prompt_would_be(run: Run, gguf: Path, book: Path) -> None:
    result = run("generate", gguf, "--file", book, "-n", 20, *GREEDY)
    assert (result.code, result.err) == (0, "")
    assert result.out == generated(gguf, TEXT, max_tokens=20) + "\n"


def test_a_prompt_comes_after_the_document(run: Run, gguf: Path, book: Path) -> None:
    result = run("generate", gguf, "\n\nThe database", "--file", book, "-n", 20, *GREEDY, "--json")
    found = json.loads(result.out)
    with Model.load(gguf) as model:
        encode = model.tokenizer.encode
        tokens = encode(TEXT) + encode("\n\nThe database")
        assert found["text"] == model.generate(tokens, max_tokens=20, temperature=0)
    assert found["n_prompt_tokens"] == len(tokens)
    assert found["document"] == {
        "n_bytes": len(TEXT),
        "n_tokens": len(encode(TEXT)),
        "sha256": hashlib.sha256(TEXT).hexdigest(),
        "resumed_at_bytes": 0,
    }


def test_only_what_nothing_came_before_is_encoded_as_a_beginning(
    run: Run, gguf: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: list[str] = []
    began: list[bool] = []
    encode_stream = WorldTokenizer.encode_stream

    def encode_more(self: WorldTokenizer, text: str | bytes) -> list[int]:
        # The texts of single tokens, which penalties look at, are bytes.
        more.extend([text] if isinstance(text, str) else [])
        return self.encode(text)

    def watched(self: WorldTokenizer, pieces: Any, begins: bool = True) -> Any:
        began.append(begins)
        return encode_stream(self, pieces, begins)

    monkeypatch.setattr(WorldTokenizer, "encode_more", encode_more)
    monkeypatch.setattr(WorldTokenizer, "encode_stream", watched)
    state = tmp_path / "a.state"
    assert run("generate", gguf, "One", "-n", 1, "--save-state", state).code == 0
    assert run("generate", gguf, "--file", book, "-n", 0).code == 0
    assert (more, began) == ([], [True])
    assert run("generate", gguf, "Two", "-n", 1, "--state", state).code == 0
    assert run("generate", gguf, "Three", "-n", 0, "--state", state).code == 0
    assert run("generate", gguf, "Four", "-n", 1, "--file", book).code == 0
    assert (more, began) == (["Two", "Three", "Four"], [True, True])
    only_read = ("--file", book, "-n", 0, "--save-state", state)
    assert run("generate", gguf, *only_read, "--state", state).code == 0
    assert run("generate", gguf, *only_read, "--resume", state).code == 0
    assert began[2:] == [False, False]


def test_n_0_only_reads(run: Run, gguf: Path, book: Path, tmp_path: Path) -> None:
    state = tmp_path / "a.state"
    result = run("generate", gguf, "--file", book, "-n", 0, "--save-state", state)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert same_arrays(gguf, state, TEXT)
    asked = run("generate", gguf, "\n\nThe", "--state", state, "-n", 9, *GREEDY)
    both = run("generate", gguf, "\n\nThe", "--file", book, "-n", 9, *GREEDY)
    assert asked.out == both.out


def test_info_says_how_far_a_document_was_read(
    run: Run, gguf: Path, book: Path, tmp_path: Path
) -> None:
    state = tmp_path / "a.state"
    run("generate", gguf, "--file", book, "-n", 0, "--save-state", state)
    n_tokens = position_in(state)["n_tokens"]
    assert f"read as far as byte 6,000, which is {n_tokens:,} tokens" in run("info", state).out
    run("generate", gguf, "--file", book, "-n", 1, "--save-state", state)
    assert f"{n_tokens:,} tokens; then 1 other tokens" in run("info", state).out
    raw = state.read_bytes()
    state.write_bytes(raw.replace(b"n_tokens", b"n_tokenz"))
    assert "its position in a document is damaged" in run("info", state).out


def test_n_0_of_a_prompt_reads_it(run: Run, gguf: Path, tmp_path: Path) -> None:
    state = tmp_path / "a.state"
    result = run("generate", gguf, "The database", "-n", 0, "--save-state", state, "--json")
    found = json.loads(result.out)
    assert (found["text"], found["tokens"], found["document"]) == ("", [], None)
    assert found["n_prompt_tokens"] > 1
    assert same_arrays(gguf, state, b"The database")


def test_a_document_can_come_through_stdin(
    run_process: Callable[..., Any], gguf: Path, book: Path
) -> None:
    wanted = generated(gguf, TEXT, max_tokens=9) + "\n"
    for arguments in (("--file", "-"), ("-",)):
        with open(book, "rb") as stdin:
            done = run_process("generate", gguf, *arguments, "-n", 9, *GREEDY, stdin=stdin)
        assert (done.returncode, done.stdout, done.stderr) == (0, wanted, "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_document_can_come_through_a_named_pipe(run: Run, gguf: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(TEXT,))
    writer.start()
    result = run("generate", gguf, "--file", pipe, "-n", 9, *GREEDY)
    writer.join()
    assert (result.code, result.out) == (0, generated(gguf, TEXT, max_tokens=9) + "\n")


def test_bytes_that_are_no_utf8_are_read_as_they_are(run: Run, gguf: Path, tmp_path: Path) -> None:
    text = b"caf\xe9 \xff\xfe\x00 " + TEXT[:100]
    (tmp_path / "latin.txt").write_bytes(text)
    state = tmp_path / "a.state"
    arguments = ("--file", tmp_path / "latin.txt", "-n", 0, "--save-state", state)
    assert run("generate", gguf, *arguments).code == 0
    assert same_arrays(gguf, state, text)


def test_what_cannot_be_read_is_one_line(run: Run, gguf: Path, tmp_path: Path) -> None:
    def failed(file: Path, *arguments: object) -> Any:
        return run("generate", gguf, "--file", file, *arguments)

    assert failed(tmp_path / "no.txt").failed_with("no.txt: No such file")
    assert failed(tmp_path).failed_with(f"{tmp_path}: ")
    (tmp_path / "empty.txt").touch()
    assert failed(tmp_path / "empty.txt").failed_with("empty.txt: the prompt is empty")
    (tmp_path / "a.txt").write_bytes(b"a")
    nowhere = tmp_path / "no" / "a.state"
    arguments = ("--save-state", nowhere)
    assert failed(tmp_path / "a.txt", *arguments).failed_with("its folder does not exist")


class Interrupted:
    """Ctrl-C after so many sections, and never again."""

    def __init__(self, n_sections: int) -> None:
        self.left = n_sections

    def look(self, reading: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_what_was_interrupted_goes_on_to_the_same_text(
    run: Run, gguf: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "a.state"
    saving = ("--file", book, "--save-state", state, "--checkpoint-every", 1)
    with monkeypatch.context() as patch:
        patch.setattr("rwkv_edge.apps.commands.generate.Checkpoints", lambda *_: Interrupted(3))
        stopped = run("generate", gguf, *saving, "-n", 20, *GREEDY)
    assert stopped.code == 130
    assert stopped.out == ""
    assert stopped.err.startswith(f"rwkv-edge: interrupted; {state} holds the state after 768 tok")
    assert stopped.err.count("\n") == 1
    found = position_in(state)
    assert found["n_tokens"] == 768
    assert same_arrays(gguf, state, TEXT[: found["n_bytes"]])
    resumed = run("generate", gguf, "--file", book, "--resume", state, "-n", 20, *GREEDY, "--json")
    assert json.loads(resumed.out)["text"] == generated(gguf, TEXT, max_tokens=20)
    document = json.loads(resumed.out)["document"]
    assert document["resumed_at_bytes"] == found["n_bytes"]
    assert document["sha256"] == hashlib.sha256(TEXT).hexdigest()


def test_without_a_file_for_it_nothing_is_saved(
    run: Run, gguf: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rwkv_edge.apps.commands.generate.read_document", interrupt)
    stopped = run("generate", gguf, "--file", book)
    assert (stopped.code, stopped.err) == (130, "rwkv-edge: interrupted\n")
    assert os.listdir(tmp_path) == ["book.txt"]


def test_an_answer_that_is_interrupted_is_saved_as_far_as_it_came_out(
    run: Run, endless_gguf: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "a.state"
    written: list[str] = []

    def write_then_stop(piece: str) -> None:
        written.append(piece)
        if len(written) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("rwkv_edge.apps.console.write", write_then_stop)
    stopped = run("generate", endless_gguf, "--file", book, "--save-state", state, "--seed", 1)
    assert stopped.code == 130
    assert "holds the state after what was written" in stopped.err
    with Model.load(endless_gguf) as model:
        stream = model.stream(TEXT, seed=1)
        assert [next(stream) for _ in range(5)] == written
        wanted = stream.state.to_arrays()
        found = model.load_state(state).to_arrays()
    assert all(np.array_equal(found[name], array) for name, array in wanted.items())
    assert position_in(state)["n_after"] == len(stream.tokens)
    resumed = run("generate", endless_gguf, "--file", book, "--resume", state)
    assert resumed.failed_with("other tokens after its document")


def test_an_answer_interrupted_before_its_first_piece_leaves_the_document(
    run: Run, gguf: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(stream: object) -> None:
        raise KeyboardInterrupt

    state = tmp_path / "a.state"
    monkeypatch.setattr("rwkv_edge.generation.Stream.__next__", stop)
    stopped = run("generate", gguf, "And", "--file", book, "--save-state", state)
    assert "holds the state after the document" in stopped.err
    assert position_in(state)["n_after"] == 0
    assert same_arrays(gguf, state, TEXT)
    stopped = run("generate", gguf, "And", "--save-state", tmp_path / "b.state")
    assert (stopped.code, stopped.err) == (130, "rwkv-edge: interrupted\n")
    assert not (tmp_path / "b.state").exists()


def test_another_document_is_refused_when_it_is_resumed(
    run: Run, gguf: Path, book: Path, tmp_path: Path
) -> None:
    state = tmp_path / "a.state"
    assert run("generate", gguf, "--file", book, "-n", 0, "--save-state", state).code == 0
    before = state.read_bytes()
    other = tmp_path / "other.txt"
    other.write_bytes(TEXT[:-1] + b"!")
    resume = ("--resume", state, "--save-state", state)
    refused = run("generate", gguf, "--file", other, *resume)
    assert refused.failed_with(f"{state}: another document was read")
    other.write_bytes(TEXT[:-1])
    assert run("generate", gguf, "--file", other, *resume).failed_with("has only 5,999")
    assert state.read_bytes() == before
    assert run("generate", gguf, "And", "-n", 1, "--save-state", state).code == 0
    refused = run("generate", gguf, "--file", book, "--resume", state)
    assert refused.failed_with("was not saved while a document was read")


def test_a_document_that_grew_is_gone_on_with(
    run: Run, gguf: Path, book: Path, tmp_path: Path
) -> None:
    state = tmp_path / "a.state"
    only_read = ("-n", 0, "--save-state", state)
    assert run("generate", gguf, "--file", book, *only_read).code == 0
    nothing_left = run("generate", gguf, "--file", book, "--resume", state, "-n", 5)
    assert nothing_left.failed_with("had been read to its end before; give a prompt")
    asked = run("generate", gguf, "The", "--file", book, "--resume", state, "-n", 5, *GREEDY)
    assert asked.out == run("generate", gguf, "The", "--state", state, "-n", 5, *GREEDY).out
    assert run("generate", gguf, "--file", book, "--resume", state, *only_read).code == 0
    with open(book, "ab") as file:
        file.write(b" And then some.")
    assert run("generate", gguf, "--file", book, "--resume", state, *only_read).code == 0
    assert same_arrays(gguf, state, TEXT + b" And then some.")


@pytest.mark.parametrize("n_bytes", [100, len(TEXT) + 500])
def test_a_document_of_another_size_than_at_first_is_said(
    run: Run, gguf: Path, book: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int
) -> None:
    monkeypatch.setattr(documents, "size_of", lambda file: n_bytes)
    result = run("generate", gguf, "--file", book, "-n", 1)
    assert result.code == 0
    assert (
        result.err
        == f"book.txt had {n_bytes:,} bytes at first, and 6,000 when its end was reached\n"
    )


def test_checkpoints_are_written_and_said(
    run: Run, gguf: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "a.state"
    seen: list[dict[str, Any]] = []
    look = Checkpoints.look

    def look_and_tell(self: Checkpoints, reading: Any) -> None:
        look(self, reading)
        if state.exists():
            seen.append(position_in(state))

    monkeypatch.setattr(Checkpoints, "look", look_and_tell)
    arguments = ("--file", book, "-n", 0, "--save-state", state, "--checkpoint-every", 500)
    result = run("generate", gguf, *arguments)
    assert result.code == 0
    kept = sorted({found["n_tokens"] for found in seen})
    assert kept[:2] == [512, 1024]
    assert result.err.startswith("checkpoint after 512 tokens (")
    assert result.err.count("\n") == len(kept)
    assert position_in(state)["n_bytes"] == len(TEXT)


def test_checkpoints_by_time(run: Run, gguf: Path, tmp_path: Path, book: Path) -> None:
    arguments = ("--file", book, "-n", 0, "--save-state", tmp_path / "a.state")
    assert run("generate", gguf, *arguments, "--checkpoint-every", "1h").err == ""


@pytest.mark.parametrize("every", ["0", "0s", "often", "-5", "10 m", "1d", "", "1" * 50])
def test_a_checkpoint_that_makes_no_sense_is_refused(every: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--checkpoint-every takes tokens"):
        Checkpoints(every, tmp_path / "a.state")


def test_a_checkpoint_that_does_not_fit_is_said_and_reading_goes_on(
    run: Run, gguf: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "a.state"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rwkv_edge.reading.Reading.save", full)
    arguments = ("--file", book, "-n", 0, "--save-state", state, "--checkpoint-every", 1000)
    result = run("generate", gguf, *arguments)
    assert result.code == 0
    assert f"{state}: no checkpoint could be written: No space left on device\n" in result.err
    assert same_arrays(gguf, state, TEXT)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", 0)])
def test_a_signal_leaves_a_state_to_go_on_from(
    start_process: Start, endless_gguf: Path, tmp_path: Path, number: int, run: Run
) -> None:
    book, state = tmp_path / "long.txt", tmp_path / "a.state"
    text = heldout_path().read_bytes() * 20
    book.write_bytes(text)
    arguments = ("--file", book, "--save-state", state, "--threads", 1)
    process = start_process(
        "generate", endless_gguf, *arguments, "--checkpoint-every", 1, start_new_session=True
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("checkpoint after 256 tokens")
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out == ""
    last = errors.splitlines()[-1]
    assert last.startswith(f"rwkv-edge: interrupted; {state} holds the state after ")
    n_bytes = position_in(state)["n_bytes"]
    assert 256 <= n_bytes < len(text)
    assert same_arrays(endless_gguf, state, text[:n_bytes])
    book.write_bytes(text[: n_bytes + 300])
    resume = ("--file", book, "--resume", state, "-n", 9, *GREEDY)
    wanted = generated(endless_gguf, text[: n_bytes + 300], max_tokens=9)
    assert run("generate", endless_gguf, *resume).out == wanted + "\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_pipe_that_gives_nothing_can_be_interrupted(
    start_process: Start, endless_gguf: Path, tmp_path: Path
) -> None:
    state = tmp_path / "a.state"
    arguments = ("--file", "-", "--save-state", state, "--checkpoint-every", 1)
    process = start_process(
        "generate", endless_gguf, *arguments, stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write("a" * 300)
    process.stdin.flush()
    assert process.stderr.readline().startswith("checkpoint after 256 tokens")
    process.send_signal(signal.SIGTERM)
    # Not `communicate`, which would close the pipe: that is the end of a document.
    process.wait(timeout=60)
    assert process.returncode == 143
    assert position_in(state)["n_bytes"] == 256


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals here")
def test_progress_is_drawn_where_somebody_looks(endless_gguf: Path, book: Path) -> None:
    mine, theirs = os.openpty()
    command = [sys.executable, "-m", "rwkv_edge.apps.cli", "generate", str(endless_gguf)]
    process = subprocess.Popen(
        [*command, "--file", str(book), "-n", "0"], stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(mine, 4096):
            shown += piece
    # Linux's way to say that the other end was closed.
    except OSError:
        pass
    out, _ = process.communicate(timeout=60)
    os.close(mine)
    assert (process.returncode, out) == (0, b"")
    assert b"reading book.txt" in shown
    assert b"6,000 tokens" in shown or b"tokens, " in shown
    assert b"(6000 tokens read and 0 written in" in shown


def test_time_goes_on_between_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Read:
        begin = position = type("At", (), {"n_tokens": 5, "n_bytes": 7})
        n_saves = 0

        def save(self, path: Path) -> None:
            self.n_saves += 1

    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reading: Any = Read()
    checkpoints = Checkpoints("2m", tmp_path / "a.state")
    saves = []
    for seconds in (0, 60, 59, 1, 119, 1, 300, 10):
        now += seconds
        checkpoints.look(reading)
        saves.append(reading.n_saves)
    assert saves == [0, 0, 0, 1, 1, 2, 3, 3]


PAGE = Path(__file__).resolve().parents[2] / "docs" / "long-documents.md"


def test_the_python_of_its_page_runs(
    gguf: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    with Model.load(gguf) as model:
        names: dict[str, Any] = {"model": model, "cancelled": lambda: True}
        exec(compile(code, str(PAGE), "exec"), names)
        assert names["reading"].begin.n_tokens == SECTION_TOKENS
        assert names["reading"].position.n_bytes == len(TEXT)
        assert len(names["text"]) > 20


def test_every_option_that_its_page_names_exists(run: Run) -> None:
    shown = run("generate", "--help").out + run("bench", "--help").out
    for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", PAGE.read_text("utf-8")):
        assert option in shown, option
