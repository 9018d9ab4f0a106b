"""Vocabulary files: World's own, small ones, and what is none."""

import ast
import contextlib
import importlib.util
import os
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.tokenizers import vocabulary_file
from rwkv_edge.tokenizers.vocabulary_file import (
    MAX_TOKENS,
    MAX_VOCABULARY_BYTES,
    WORLD_FILE,
    byte_vocabulary,
    parse_line,
    read_vocabulary,
    world_vocabulary,
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")
    return path


SMALL = ["1 'a' 1", "2 'b c' 3", r"3 b'\xff' 1", r"4 '\n\n' 2", "5 '日' 3", "6 '\x85' 2"]


def test_a_small_vocabulary_is_read(tmp_path: Path) -> None:
    found = read_vocabulary(write(tmp_path / "v.txt", *SMALL))
    assert found.tokens == [b"a", b"b c", b"\xff", b"\n\n", "日".encode(), "\x85".encode()]
    assert (found.kind, found.first_id, found.n_ids, found.is_world) == ("world", 1, 7, False)


def test_lines_may_end_as_windows_ends_them(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes("\r\n".join(SMALL).encode())
    assert len(read_vocabulary(path).tokens) == len(SMALL)


def test_ids_may_begin_at_zero(tmp_path: Path) -> None:
    lines = [f"{i} {bytes([i])!r} 1" for i in range(256)]
    found = read_vocabulary(write(tmp_path / "v.txt", *lines))
    assert (found.kind, found.first_id, found.tokens) == ("bytes", 0, byte_vocabulary().tokens)
    found = read_vocabulary(write(tmp_path / "v.txt", *lines[:9]))
    assert (found.kind, found.first_id) == ("world", 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no tokens"),
        (["2 'a' 1"], "line 1: id 2, wanted 1"),
        (["1 'a' 1", "3 'b' 1"], "line 2: id 3, wanted 2"),
        (["1 'a' 1", "1 'b' 1"], "line 2: id 1, wanted 2"),
        (["1 'a' 1", "2 'a' 1"], "line 2: repeats"),
        (["1 'a' 1", "2 b'a' 1"], "line 2: repeats"),
        (["1 'a' 2"], "line 1: the token has 1 bytes, the line says 2"),
        (["1 '日' 1"], "3 bytes"),
        (["1 '' 0"], "1 to 1024 bytes"),
        ([f"1 '{'x' * 2000}' 2000"], "1 to 1024 bytes"),
        ([f"1 '{'x' * 20000}' 20000"], "line 1: not"),
        (["1 a 1"], "line 1: not"),
        (["1 [1] 1"], "line 1: not"),
        (["1 'a'"], "line 1: not"),
        (["x 'a' 1"], "line 1: not"),
        (["-1 'a' 1"], "line 1: not"),
        (["1 'a' + 'b' 2"], "line 1: not a"),
        (["1 'a', 'b' 2"], "line 1: not a"),
        (["1 'a'.__class__ 2"], "line 1: not"),
        ([r"1 '\ud800' 3"], "surrogate"),
        ([r"1 '\x' 1"], "not a Python literal"),
        (["GIF89a"], "line 1: not"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    path = write(tmp_path / "v.txt", *lines)
    with pytest.raises(FormatError, match=message) as caught:
        read_vocabulary(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b"1 '\xff' 1\n")
    with pytest.raises(FormatError, match="UTF-8"):
        read_vocabulary(path)
    with pytest.raises(FormatError, match="cannot be read"):
        read_vocabulary(tmp_path)


@given(text=st.text(st.characters(), min_size=1, max_size=6), quote=st.sampled_from("'\""))
@example(text="a' 'b", quote="'")
@example(text="\\x41", quote="'")
@example(text="\ud800", quote="'")
@example(text="\u2028", quote="'")
def test_lines_mean_what_pythons_own_parser_makes_of_them(text: str, quote: str) -> None:
    literal = f"{quote}{text}{quote}"
    wanted: object = None
    with contextlib.suppress(ValueError, SyntaxError):
        wanted = ast.literal_eval(literal)
    encoded = b""
    if isinstance(wanted, str):
        with contextlib.suppress(UnicodeEncodeError):
            encoded = wanted.encode()
    line = f"7 {literal} {len(encoded)}"
    if encoded:
        assert parse_line(line) == (7, encoded)
    else:
        with pytest.raises(ValueError, match=r"."):
            parse_line(line)


@pytest.mark.parametrize("line", ["1 'a' \x1b[2J 'b' 1", "1 'a' \x0b 5 'b' 1", "1 '\u2028'+'' 3"])
def test_what_a_line_holds_cannot_break_the_message(tmp_path: Path, line: str) -> None:
    with pytest.raises(FormatError, match="line 1: not a Python literal") as refused:
        read_vocabulary(write(tmp_path / "v.txt", line))
    assert str(refused.value).isprintable()


def test_literals_are_never_run() -> None:
    with pytest.raises(ValueError, match="not"):
        parse_line("1 b'' if __import__('os').abort() else b'' 1")


def test_world_has_the_tokens_of_the_official_package() -> None:
    """The `rwkv` package keeps its own copy, with Windows line ends; it is the oracle."""
    official = importlib.util.find_spec("rwkv")
    if official is None or official.origin is None:
        pytest.skip("the official rwkv package is not installed")
    world = world_vocabulary()
    assert world.is_world
    assert (world.n_ids, world.kind) == (65530, "world")
    assert world.tokens == read_vocabulary(Path(official.origin).parent / WORLD_FILE).tokens
    assert world.tokens[261 - 1] == b"\n\n"


def test_world_is_found_without_importing_its_package() -> None:
    before = set(sys.modules)
    world_vocabulary()
    assert not {"pyrwkv_tokenizer", "rwkv", "torch"} & (set(sys.modules) - before)


def test_without_a_package_the_message_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vocabulary_file, "WORLD_PACKAGES", ("no_such_package",))
    with pytest.raises(UnsupportedModelError, match="pip install pyrwkv-tokenizer"):
        world_vocabulary()


def test_a_vocabulary_becomes_a_tokenizer_padded_to_the_model(tmp_path: Path) -> None:
    tokenizer = read_vocabulary(write(tmp_path / "v.txt", *SMALL)).tokenizer(9)
    assert tokenizer.encode("ab c\n\n") == [1, 2, 4]
    assert (tokenizer.n_vocab, tokenizer.end_of_document) == (9, 0)
    assert [tokenizer.token_bytes(token) for token in (0, 3, 7, 8)] == [b"", b"\xff", b"", b""]
    assert byte_vocabulary().tokenizer(300).encode("é") == [0xC3, 0xA9]
    assert world_vocabulary().tokenizer(65536).encode("\n\n") == [261]
    with pytest.raises(FormatError, match=r"ids up to 6.*6 ids; it belongs to another model"):
        read_vocabulary(tmp_path / "v.txt").tokenizer(6)


LONG = MAX_VOCABULARY_BYTES // 8


@pytest.mark.parametrize(
    "content",
    [
        b"1 'a' 1\n" + b"\n" * LONG,
        b"1 '" + b"a" * LONG + b"' 1\n",
        b"1 '" + b"a" * LONG + "🙂' 1\n".encode(),
        b"".join(b"%d '%06d' 6\n" % (i, i) for i in range(1, MAX_TOKENS // 8)),
    ],
    ids=["empty lines", "a long line", "a long line of wide letters", "short tokens"],
)
def test_what_is_small_in_a_file_does_not_fill_the_memory(tmp_path: Path, content: bytes) -> None:
    """An eighth of the most that is let through, in an eighth of what it may take."""
    path = tmp_path / "v.txt"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with contextlib.suppress(FormatError):
            read_vocabulary(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(content) + (64 << 20) // 8
    finally:
        tracemalloc.stop()


def test_a_vocabulary_of_more_tokens_than_any_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary_file, "MAX_TOKENS", len(SMALL) - 1)
    with pytest.raises(FormatError, match="line 6: no vocabulary has more than 5 tokens"):
        read_vocabulary(write(tmp_path / "v.txt", *SMALL))


@pytest.mark.parametrize("literal", ["'\x1b[2J' + ''", "'\\N{\x07}'", "'a'\r'b'", "'\u202e' 'x"])
def test_a_literal_cannot_break_the_line_or_the_terminal(tmp_path: Path, literal: str) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(f"1 {literal}' 1\n".encode())
    with pytest.raises(FormatError) as caught:
        read_vocabulary(path)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in the file system are POSIX")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.txt")
    with pytest.raises(FormatError, match="not a regular file"):
        read_vocabulary(tmp_path / "v.txt")
