"""Tokenizer files, told apart by their content."""

import os
from pathlib import Path

import pytest

from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    WorldTokenizer,
    load_tokenizer,
)
from rwkv_edge.tokenizers.files import kind_of

pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")
from tests.tokenizers.foreign_files import (
    changed,
    neox_json,
    sentencepiece_model,
    spaces_bpe_json,
)


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A name that says nothing."""
    return tmp_path_factory.mktemp("t") / "file"


@pytest.mark.parametrize(
    ("content", "kind", "made"),
    [
        (b"1 'a' 1\n2 b'\\xff' 1\n", "world", WorldTokenizer),
        (b"\n\n0 'a' 1\r\n", "world", WorldTokenizer),
        ("".join(f"{i} {bytes([i])!r} 1\n" for i in range(256)).encode(), "world", ByteTokenizer),
        (neox_json().encode(), "huggingface", HuggingFaceTokenizer),
        (b"\xef\xbb\xbf \r\n" + spaces_bpe_json().encode(), "huggingface", HuggingFaceTokenizer),
        (sentencepiece_model("bpe", "identity"), "sentencepiece", SentencePieceTokenizer),
        (sentencepiece_model("unigram", "nmt_nfkc"), "sentencepiece", SentencePieceTokenizer),
    ],
)
def test_a_file_is_known_by_its_content(path: Path, content: bytes, kind: str, made: type) -> None:
    path.write_bytes(content)
    assert kind_of(path) == kind
    tokenizer = load_tokenizer(path, 1000)
    assert type(tokenizer) is made
    assert tokenizer.n_vocab == 1000
    assert tokenizer.token_bytes(999) == b""
    assert tokenizer.decode(tokenizer.encode("a")) == "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no tokenizer; wanted"),
        (b"\n", "is no tokenizer; wanted"),
        (b"GIF89a", "is no tokenizer; wanted"),
        (b"PK\x03\x04", "is no tokenizer; wanted"),
        (b"\x0a\x05\x0a\x01", "sentencepiece model is damaged: it is cut off"),
        (b"{", "tokenizer.json is damaged"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"1 'a' 1\n3 'b' 1\n", "line 2: id 3, wanted 2"),
    ],
)
def test_another_file_is_refused_by_name(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        load_tokenizer(path, 1000)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1


def test_what_is_unsupported_is_named_too(path: Path) -> None:
    path.write_text(changed(neox_json(), model_type="WordPiece"))
    with pytest.raises(UnsupportedModelError, match="'WordPiece'") as caught:
        load_tokenizer(path, 1000)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read: No such file"):
        load_tokenizer(path, 1000)
    with pytest.raises(FormatError, match="cannot be read"):
        load_tokenizer(path.parent, 1000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(FormatError, match="not a regular file"):
        load_tokenizer(path, 1000)


def test_a_file_too_large_is_not_read(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"{")
        file.truncate(65 << 20)
    with pytest.raises(FormatError, match="larger than any tokenizer"):
        load_tokenizer(path, 1000)


def test_a_model_with_fewer_ids_is_another_one(path: Path) -> None:
    for content in (neox_json().encode(), sentencepiece_model("bpe", "identity"), b"0 'a' 1\n"):
        path.write_bytes(content)
        n_ids = load_tokenizer(path, 1000).n_ids if content[0] != ord("0") else 1  # type: ignore[attr-defined]
        assert load_tokenizer(path, n_ids).n_vocab == load_tokenizer(path).n_vocab == n_ids
        with pytest.raises(FormatError, match=r"another model"):
            load_tokenizer(path, n_ids - 1)
