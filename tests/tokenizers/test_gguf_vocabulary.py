import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.tokenizers import escape_token, tokenizer_from_gguf, unescape_token
from rwkv_edge.tokenizers.gguf_vocabulary import TokenType, unescape_tokens

Metadata = dict[str, object]


def small_metadata() -> Metadata:
    return {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": [b"<s>", rb"\x00", b"a", rb"\n\n", b"[PAD4]"],
        "tokenizer.ggml.token_type": np.array([3, 1, 1, 1, 5], np.int32),
    }


def test_every_world_entry_survives_escaping(world_vocabulary: list[bytes]) -> None:
    escaped = [escape_token(text) for text in world_vocabulary]
    assert [unescape_token(text) for text in escaped] == world_vocabulary
    assert unescape_tokens(escaped) == world_vocabulary
    assert unescape_tokens([text.encode() for text in escaped]) == world_vocabulary


@given(st.binary(max_size=20))
def test_any_bytes_survive_escaping(token: bytes) -> None:
    escaped = escape_token(token)
    assert escaped.isascii()
    assert unescape_token(escaped) == token
    assert unescape_tokens([escaped]) == [token]


@given(st.lists(st.text("\\xnt04'aA\n\xe9", max_size=12)))
def test_unescaping_many_equals_unescaping_each(stored: list[str]) -> None:
    try:
        expected = [unescape_token(text) for text in stored]
    except FormatError:
        with pytest.raises(FormatError):
            unescape_tokens(stored)
    else:
        assert unescape_tokens(stored) == expected


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (r"\t\n\r\\", b"\t\n\r\\"),
        (r"\'\"", b"'\""),
        (r"\x7e\xff", b"\x7e\xff"),
        (r"\\x41", rb"\x41"),
        # llama.cpp knows no octal, no \a and no \u: what follows the backslash is itself.
        (r"\101", b"101"),
        (r"\a\u0041", b"au0041"),
        (r"\u0100", b"u0100"),
        (r"\\u0100", rb"\u0100"),
        ("é", "é".encode()),
    ],
)
def test_unescape_token_reads_as_llama_cpp_does(stored: str, expected: bytes) -> None:
    assert unescape_token(stored) == expected
    assert unescape_tokens([stored]) == [expected]


@pytest.mark.parametrize(
    "damaged", ["\\", "a\\", r"\x", r"\x4", r"\xg0", r"\x4G", r"\xFF", r"\x\\41"]
)
def test_a_damaged_escape_is_refused(damaged: str) -> None:
    with pytest.raises(FormatError, match="damaged escape at byte"):
        unescape_token(damaged)
    with pytest.raises(FormatError):
        unescape_tokens(["fine", damaged])


def test_llama_cpp_rules_read_the_same_vocabulary(world_vocabulary: list[bytes]) -> None:
    """Its unescaping, restated character by character."""
    for text in world_vocabulary:
        output = bytearray()
        stored = iter(escape_token(text))
        for character in stored:
            if character != "\\":
                output += character.encode()
                continue
            escape = next(stored)
            if escape == "x":
                output.append(int(next(stored) + next(stored), 16))
            else:
                output += {"t": "\t", "n": "\n", "r": "\r"}.get(escape, escape).encode()
        assert output == text


@pytest.mark.parametrize("as_text", [False, True])
def test_tokens_with_text_are_found_and_others_are_not(as_text: bool) -> None:
    metadata = small_metadata()
    if as_text:
        metadata["tokenizer.ggml.tokens"] = ["<s>", r"\x00", "a", r"\n\n", "[PAD4]"]
        metadata["tokenizer.ggml.token_type"] = [3, 1, 1, 1, 5]
    tokenizer = tokenizer_from_gguf(metadata, 8)
    assert tokenizer.n_vocab == 8
    assert tokenizer.end_of_document == 0
    assert tokenizer.encode("a\n\n\x00") == [2, 3, 1]
    assert [tokenizer.token_bytes(token) for token in range(8)] == [
        b"", b"\x00", b"a", b"\n\n", b"", b"", b"", b"",
    ]  # fmt: skip


def test_a_file_of_bytes_gives_bytes() -> None:
    metadata: Metadata = {
        "tokenizer.ggml.model": "rwkv",
        "rwkv_edge.tokenizer": "bytes",
        "tokenizer.ggml.tokens": [escape_token(bytes([byte])) for byte in range(256)],
        "tokenizer.ggml.token_type": [int(TokenType.BYTE)] * 256,
    }
    tokenizer = tokenizer_from_gguf(metadata, 256)
    assert tokenizer.encode("é\x00") == [0xC3, 0xA9, 0]
    assert tokenizer.end_of_document is None
    metadata["tokenizer.ggml.tokens"] = [b"a"]
    with pytest.raises(FormatError, match="needs 256 ids"):
        tokenizer_from_gguf(metadata, 100)


@pytest.mark.parametrize("model", ["llama", "gpt2", 3])
def test_another_tokenizer_is_unsupported(model: object) -> None:
    metadata = small_metadata() | {"tokenizer.ggml.model": model}
    with pytest.raises(UnsupportedModelError, match=f"its tokenizer is {model}; only"):
        tokenizer_from_gguf(metadata, 5)


def test_an_unknown_kind_of_ours_is_unsupported() -> None:
    metadata = small_metadata() | {"rwkv_edge.tokenizer": "runes"}
    with pytest.raises(UnsupportedModelError, match="tokenizer is runes"):
        tokenizer_from_gguf(metadata, 5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"tokenizer.ggml.model": None}, "no tokenizer"),
        ({"tokenizer.ggml.tokens": None}, "missing or not a list"),
        ({"tokenizer.ggml.tokens": []}, "missing or not a list"),
        ({"tokenizer.ggml.tokens": "abcde"}, "missing or not a list"),
        ({"tokenizer.ggml.tokens": [b"a", 1, b"b", b"c", b"d"]}, "not text"),
        ({"tokenizer.ggml.tokens": [b"a"] * 6}, "6 tokens; the model has 5 ids"),
        ({"tokenizer.ggml.tokens": [b"a" * (1 << 23), b"b"]}, "bytes of text"),
        ({"tokenizer.ggml.tokens": [b"a", b"b", b"c", b"d", rb"\x1"]}, "damaged escape"),
        ({"tokenizer.ggml.token_type": None}, "not a list of 5 numbers"),
        ({"tokenizer.ggml.token_type": 3}, "not a list of 5 numbers"),
        ({"tokenizer.ggml.token_type": np.ones(4, np.int32)}, "not a list of 5 numbers"),
    ],
)
def test_a_damaged_vocabulary_is_refused(damage: Metadata, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        tokenizer_from_gguf(small_metadata() | damage, 5)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\x1b[2J" * 1000, "a\nb"])
def test_texts_out_of_a_file_cannot_fill_a_message(text: str) -> None:
    """Names of kinds, and tokens, may be of any length and hold anything."""
    escape = text.encode() + rb"\xZZ"
    for change in (
        {"tokenizer.ggml.model": text},
        {"rwkv_edge.tokenizer": text},
        {"tokenizer.ggml.tokens": [b"<s>", b"a", b"b", b"c", escape]},
    ):
        with pytest.raises((FormatError, UnsupportedModelError)) as caught:
            tokenizer_from_gguf({**small_metadata(), **change}, 6)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
