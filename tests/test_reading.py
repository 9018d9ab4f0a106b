"""Long texts: read as the whole would be, left anywhere, gone on with, in constant memory."""

import dataclasses
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_edge import FormatError, InputError, Model, Reading, RwkvEdgeError, StateMismatchError
from rwkv_edge.reading import PIECE_BYTES, Position, pieces_of
from rwkv_edge.tokenizers.sections import SECTION_TOKENS

LINES = "It was a dark and stormy night; the rain fell in torrents, ünd größer. ".encode()
TEXT = LINES * 25


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dull name: pytest's own holds the test's, which a `match` would find."""
    return tmp_path_factory.mktemp("r")


def same_state(reading: Reading, model: Model, text: bytes) -> bool:
    """Whether the state is that after the whole text at once."""
    _, state = model.forward(model.tokenizer.encode(text))
    wanted = state.to_arrays()
    return all(np.array_equal(a, wanted[name]) for name, a in reading.state.to_arrays().items())


def position_after(model: Model, text: bytes) -> Position:
    n_tokens = len(model.tokenizer.encode(text))
    return Position(len(text), n_tokens, hashlib.sha256(text).hexdigest())


def test_a_text_in_sections_leaves_the_state_and_logits_of_the_whole(words_model: Model) -> None:
    reading = words_model.read(io.BytesIO(TEXT))
    positions = list(reading)
    assert len(positions) > 3
    assert reading.is_finished
    assert reading.position == positions[-1] == position_after(words_model, TEXT)
    logits, _ = words_model.forward(words_model.tokenizer.encode(TEXT))
    assert np.array_equal(reading.logits, logits)  # type: ignore[arg-type]
    assert same_state(reading, words_model, TEXT)


def test_each_position_is_of_the_text_that_the_state_has_seen(words_model: Model) -> None:
    reading = words_model.read([TEXT])
    for position in reading:
        read = TEXT[: position.n_bytes]
        assert position == position_after(words_model, read)
        assert same_state(reading, words_model, read)


def texts(path: Path) -> list[Any]:
    return [
        io.BytesIO(TEXT), path, TEXT, TEXT.decode(), [TEXT], iter([TEXT[:7], TEXT[7:]]),
        TEXT.decode().splitlines(keepends=True), io.StringIO(TEXT.decode()), open(path, "rb"),
    ]  # fmt: skip


def test_a_text_comes_as_a_file_a_path_or_pieces(words_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    wanted = position_after(words_model, TEXT)
    for text in texts(path):
        assert words_model.read(text).finish() == wanted, text


def test_a_state_that_came_before_is_advanced_in_place(words_model: Model) -> None:
    _, state = words_model.forward(words_model.tokenizer.encode(LINES))
    reading = words_model.read([TEXT], state)
    reading.finish()
    assert reading.state is state
    assert reading.position == position_after(words_model, TEXT)
    tokens = words_model.tokenizer.encode(LINES) + words_model.tokenizer.encode(TEXT)
    assert np.array_equal(words_model.forward(tokens)[0], reading.logits)  # type: ignore[arg-type]


def test_an_empty_text_has_no_logits(words_model: Model) -> None:
    reading = words_model.read(io.BytesIO())
    assert reading.finish() == Position()
    assert reading.logits is None
    assert reading.is_finished


def test_what_was_read_is_continued_without_a_prompt(words_model: Model) -> None:
    reading = words_model.read([TEXT])
    reading.finish()
    found = words_model.stream("", max_tokens=8, seed=3, state=reading.state, logits=reading.logits)
    assert "".join(found) == words_model.generate(TEXT, max_tokens=8, seed=3)
    assert found.n_prompt_tokens == 0
    with pytest.raises(InputError, match="the prompt is empty"):
        words_model.stream("", state=reading.state)
    with pytest.raises(InputError, match=r"logits have shape \(3,\)"):
        words_model.stream("", state=reading.state, logits=np.zeros(3, np.float32))


@pytest.mark.parametrize("backend", ["numba", "reference", "llama"])
@pytest.mark.parametrize("n_sections", [0, 1, 2, 100])
def test_a_reading_that_was_saved_goes_on_to_the_same_bits(
    words_gguf: Path, tmp_path: Path, backend: str, n_sections: int
) -> None:
    if backend == "llama":
        pytest.importorskip("llama_cpp")
    text = TEXT[:1500]
    state = tmp_path / "a.state"
    with Model.load(words_gguf, backend, threads=1) as model:
        reading = model.read([text])
        list(itertools.islice(reading, n_sections))
        left_at = reading.position
        reading.save(state)
        wanted = model.read([text])
        wanted.finish()
        logits = wanted.logits
    with Model.load(words_gguf, backend, threads=1) as model:
        resumed = model.resume(state, io.BytesIO(text))
        assert resumed.begin == resumed.position == left_at
        assert resumed.finish() == wanted.position
        if n_sections < 100:
            assert np.array_equal(resumed.logits, logits)  # type: ignore[arg-type]
        else:
            assert resumed.logits is None
        # It is a state like any other, too.
        assert model.load_state(state).to_arrays().keys() == model.state_shapes.keys()


@settings(deadline=None, max_examples=20)
@given(n_sections=st.integers(0, 8), size=st.integers(1, 3000))
def test_a_resumed_text_may_come_in_other_pieces(
    words_model: Model, tmp_path_factory: pytest.TempPathFactory, n_sections: int, size: int
) -> None:
    state = tmp_path_factory.getbasetemp() / "pieces.state"
    reading = words_model.read([TEXT])
    list(itertools.islice(reading, n_sections))
    reading.save(state)
    pieces = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
    resumed = words_model.resume(state, pieces)
    assert resumed.finish() == position_after(words_model, TEXT)
    assert same_state(resumed, words_model, TEXT)


def test_a_text_that_became_longer_is_gone_on_with(words_model: Model, tmp_path: Path) -> None:
    reading = words_model.read([TEXT])
    reading.finish()
    reading.save(tmp_path / "a.state")
    resumed = words_model.resume(tmp_path / "a.state", [TEXT, LINES])
    assert resumed.finish().n_bytes == len(TEXT + LINES)
    assert resumed.position.sha256 == hashlib.sha256(TEXT + LINES).hexdigest()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (b"X" + TEXT[1:], r"another document was read: this one's first 1,\d\d\d bytes"),
        (TEXT[:600], r"1,\d\d\d bytes of a document were read, but this one has only 600"),
        (b"", r"this one has only 0"),
    ],
)
def test_another_text_is_refused(
    words_model: Model, tmp_path: Path, other: bytes, message: str
) -> None:
    state = tmp_path / "a.state"
    reading = words_model.read([TEXT])
    while reading.position.n_bytes < 1000:
        next(reading)
    reading.save(state)
    with pytest.raises(StateMismatchError, match=message) as caught:
        words_model.resume(state, io.BytesIO(other))
    assert str(caught.value).startswith(f"{state}: ")
    assert "\n" not in str(caught.value)


def test_what_no_document_can_be_gone_on_with_is_refused(
    words_model: Model, tmp_path: Path
) -> None:
    state = tmp_path / "a.state"
    reading = words_model.read([TEXT])
    reading.finish()
    reading.state.save(state)
    with pytest.raises(StateMismatchError, match="not saved while a document was read"):
        words_model.resume(state, [TEXT])
    reading.state.save(state, dataclasses.replace(reading.position, n_after=3))
    with pytest.raises(StateMismatchError, match="has seen 3 other tokens after its document"):
        words_model.resume(state, [TEXT])


def test_a_reading_of_another_model_is_refused(
    tiny_model: Model, other_gguf: Path, tmp_path: Path
) -> None:
    reading = tiny_model.read([TEXT])
    next(reading)
    reading.save(tmp_path / "a.state")
    with Model.load(other_gguf, "reference") as other:
        with pytest.raises(StateMismatchError, match=r"a\.state: a state of"):
            other.resume(tmp_path / "a.state", [TEXT])
        with pytest.raises(StateMismatchError, match="belongs to"):
            other.read([TEXT], reading.state)


GOOD = Position(5, 3, "0" * 64).to_json()


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", "[" * 100_000, "\x1b[2J\n", GOOD.replace("5", "-5"), "1" * 5000,
     GOOD.replace("5", "5.0"), GOOD.replace("5", "true"), GOOD.replace("5", "1" + "0" * 30),
     GOOD.replace("0000", "000g"), GOOD.replace('"n_bytes"', '"n_bites"'),
     GOOD.replace("{", '{"more": 1, ')],
)  # fmt: skip
def test_a_damaged_position_is_one_short_line(text: str) -> None:
    with pytest.raises(FormatError, match="its position in a document is damaged") as caught:
        Position.from_json(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_damaged_position_names_the_file(words_model: Model, tmp_path: Path) -> None:
    class Broken(Position):
        def to_json(self) -> str:
            return "?"

    words_model.new_state().save(tmp_path / "a.state", Broken())
    with pytest.raises(FormatError, match=r"a\.state: its position"):
        words_model.resume(tmp_path / "a.state", [TEXT])


def test_a_position_survives_its_file() -> None:
    position = Position(1 << 50, 17, hashlib.sha256(b"x").hexdigest(), 2)
    assert Position.from_json(position.to_json()) == position
    assert json.loads(position.to_json())["n_tokens"] == 17


class Interrupted(BaseException):
    """As Ctrl-C, which pytest would take for itself."""


@pytest.mark.parametrize("n_calls", [1, 3])
def test_an_exception_within_a_section_leaves_what_was_read_before(
    words_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_calls: int
) -> None:
    forward = words_model.forward
    left = n_calls

    def forward_then_fail(tokens: Any, state: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        result = forward(tokens, state, **options)
        if left == 0:
            raise Interrupted
        return result

    reading = words_model.read([TEXT])
    next(reading)
    with monkeypatch.context() as patch:
        patch.setattr(words_model, "forward", forward_then_fail)
        with pytest.raises(Interrupted):
            reading.finish()
    assert same_state(reading, words_model, TEXT[: reading.position.n_bytes])
    assert reading.position.n_tokens == n_calls * SECTION_TOKENS
    # The section is lost to this reading: going on as if nothing was would leave it out.
    with pytest.raises(RwkvEdgeError, match="was interrupted"):
        next(reading)
    assert not reading.is_finished
    reading.save(tmp_path / "a.state")
    resumed = words_model.resume(tmp_path / "a.state", [TEXT])
    resumed.finish()
    assert same_state(resumed, words_model, TEXT)


def test_an_exception_of_the_source_does_not_look_like_its_end(words_model: Model) -> None:
    def pieces() -> Iterator[bytes]:
        yield TEXT
        raise OSError(5, "Input/output error")

    reading = words_model.read(pieces())
    with pytest.raises(OSError, match="Input/output"):
        reading.finish()
    assert not reading.is_finished
    with pytest.raises(RwkvEdgeError, match="was interrupted"):
        reading.finish()


def test_logits_that_are_no_numbers_end_the_reading(
    words_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = words_model.forward

    def poisoned(tokens: Any, state: Any) -> Any:
        logits, state = forward(tokens, state)
        return logits * np.float32(np.nan), state

    reading = words_model.read([TEXT])
    next(reading)
    with monkeypatch.context() as patch:
        patch.setattr(words_model, "forward", poisoned)
        with pytest.raises(RwkvEdgeError, match="no numbers after 512 tokens"):
            next(reading)
    assert same_state(reading, words_model, TEXT[: reading.position.n_bytes])


def test_a_text_that_the_vocabulary_cannot_express_is_refused(words_model: Model) -> None:
    # Ids 0 to 255 of a byte model are all there are; of this vocabulary, all bytes are there.
    assert words_model.read([bytes(range(256)) * 3]).finish().n_bytes == 768


def test_a_pipe_is_read_as_it_comes() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as file, open(write_end, "wb", buffering=0) as out:
        pieces = pieces_of(file)
        for text in (b"one", b"and two"):
            out.write(text)
            # `read` would wait for more than there is.
            assert next(pieces) == text
        out.close()
        assert list(pieces) == []


def test_a_file_is_asked_for_a_bounded_piece_at_a_time(words_model: Model) -> None:
    class Counting(io.RawIOBase):
        n_read = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= PIECE_BYTES
            self.n_read += size
            return b"the rain " * (size // 9)

    file = Counting()
    reading = words_model.read(file)  # type: ignore[arg-type]
    for _ in range(5):
        next(reading)
    assert file.n_read == PIECE_BYTES


LONG = """
import itertools, sys
from rwkv_edge import Model
from rwkv_edge.apps.fresh_process import resident_bytes

def text():
    while True:
        yield b"The rain fell in torrents, except at occasional intervals. " * 100

with Model.load(sys.argv[1], threads=1) as model:
    reading = model.read(text())
    sizes = []
    for position in reading:
        if position.n_tokens >= 30_000 * (len(sizes) + 1):
            reading.save(sys.argv[2])
            sizes.append(resident_bytes().steady)
        if len(sizes) == 4:
            break
print(*sizes)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_memory_stays_the_same_however_much_is_read(q8_gguf: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LONG, str(q8_gguf), str(tmp_path / "a.state")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    warm, *later = map(int, done.stdout.split())
    assert len(later) == 3
    # 90,000 tokens kept as numbers or bytes would be more than this.
    assert max(later) - warm < 300_000
