"""Against the sentencepiece package itself, on models that it trained."""

import contextlib
import sys
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rwkv_edge.errors import BackendUnavailableError, FormatError, UnsupportedModelError
from rwkv_edge.tokenizers import SentencePieceTokenizer, StreamingDecoder, sections
from rwkv_edge.tokenizers.sentencepiece_file import (
    BYTES_PER_ID,
    SPARE_BYTES,
    ModelType,
    fields,
    read_settings,
)

sentencepiece = pytest.importorskip("sentencepiece")
from tests.tokenizers.foreign_files import sentencepiece_model, untimed  # noqa: E402

N_VOCAB = 500
NORMALIZERS = ("identity", "nmt_nfkc")
MODELS = [(kind, normalizer) for kind in ("unigram", "bpe") for normalizer in NORMALIZERS]
PARTS = [
    "Hello", " Bob", " ", "  ", "   ", "\n", "\t", "</s>", "<s>", "<unk>", "<0x41>", "▁", "é", "日",
    "e\u0301", "🙂", "①", "\x00", "булок",
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=6))).map("".join)
all_models = pytest.mark.parametrize(("kind", "normalizer"), MODELS)


@cache
def ours(kind: str, normalizer: str, byte_fallback: bool = True) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(sentencepiece_model(kind, normalizer, byte_fallback), N_VOCAB)


@cache
def theirs(kind: str, normalizer: str, byte_fallback: bool = True) -> Any:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(sentencepiece_model(kind, normalizer, byte_fallback))
    return processor


@all_models
@untimed
@given(text=TEXTS)
@example("a </s><s> <unk> <0x41>")
def test_ids_and_text_are_those_of_the_package(kind: str, normalizer: str, text: str) -> None:
    tokenizer, package = ours(kind, normalizer), theirs(kind, normalizer)
    tokens = tokenizer.encode(text)
    assert tokens == package.encode(text)
    assert tokenizer.decode(tokens) == package.decode(tokens)
    assert not any(package.is_control(token) for token in tokens)


@all_models
@untimed
@given(data=st.data())
def test_text_of_any_ids_is_that_of_the_package(
    kind: str, normalizer: str, data: st.DataObject
) -> None:
    tokenizer, package = ours(kind, normalizer), theirs(kind, normalizer)
    tokens = data.draw(st.lists(st.integers(0, tokenizer.n_ids - 1), max_size=8))
    # The package shows bytes that make no character otherwise than Python does.
    tokens = [token for token in tokens if not package.is_byte(token)]
    assert tokenizer.decode(tokens) == package.decode(tokens)


@untimed
@given(text=TEXTS)
def test_identity_gives_every_text_back(text: str) -> None:
    # The mark of a space is read as one.
    expected = text.replace("▁", " ")
    for kind in ("unigram", "bpe"):
        tokenizer = ours(kind, "identity")
        assert tokenizer.decode(tokenizer.encode(text)) == expected
        assert tokenizer.decode_bytes(tokenizer.encode_more(" " + text)) == expected.encode()


@untimed
@given(st.binary(max_size=30))
@example(bytes(range(256)))
def test_bytes_that_are_no_utf8_become_byte_pieces(data: bytes) -> None:
    tokenizer = ours("bpe", "identity")
    expected = data.decode("utf-8", "surrogateescape").replace("▁", " ")
    assert tokenizer.decode_bytes(tokenizer.encode(data)) == expected.encode(
        "utf-8", "surrogateescape"
    )


def test_without_byte_pieces_what_is_unknown_says_so() -> None:
    tokenizer, package = ours("bpe", "identity", False), theirs("bpe", "identity", False)
    for text in ("Hello 🙂 Bob", "🙂"):
        assert tokenizer.encode(text) == package.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == package.decode(package.encode(text))
    assert tokenizer.encode(b"Bob\xff") == [*tokenizer.encode("Bob"), package.unk_id()]


@all_models
@untimed
@given(text=TEXTS, cut=st.integers(0, 40))
def test_text_that_goes_on_gains_and_loses_no_space(
    kind: str, normalizer: str, text: str, cut: int
) -> None:
    tokenizer = ours(kind, normalizer)
    head, tail = text[:cut], text[cut:]
    if normalizer != "identity":
        # What the normalizer does across the cut is not ours; white space is.
        head, tail = (unicodedata.normalize("NFKC", part) for part in (head, tail))
    parts = tokenizer.encode_more(head) + tokenizer.encode_more(tail)
    joined = b"".join(map(tokenizer.token_bytes, parts))
    assert joined.count(b" ") == sum(
        b"".join(map(tokenizer.token_bytes, tokenizer.encode_more(part))).count(b" ")
        for part in (head, tail)
    )
    if normalizer == "identity":
        assert joined == text.replace("▁", " ").encode()


@all_models
def test_streaming_gives_every_space_and_whole_characters(kind: str, normalizer: str) -> None:
    tokenizer, decoder = ours(kind, normalizer), StreamingDecoder()
    tokens = tokenizer.encode_more(" Hello 日月🙂 Bob")
    pieces = [decoder.push(tokenizer.token_bytes(token)) for token in tokens]
    assert "".join(pieces) + decoder.flush() == " Hello 日月🙂 Bob"
    assert "\ufffd" not in "".join(pieces)
    assert any(piece == "" for piece in pieces), "no character was held until it was whole"


def test_chunks_joined_by_encode_would_invent_spaces() -> None:
    """The trap that `encode_more` is for."""
    tokenizer = ours("bpe", "identity")
    spaces = tokenizer.encode("Hel") + tokenizer.encode("lo")
    assert b"".join(map(tokenizer.token_bytes, spaces)) == b" Hel lo"
    joined = tokenizer.encode("Hel") + tokenizer.encode_more("lo")
    assert tokenizer.decode(joined) == "Hello"


def test_the_end_of_a_document_is_the_file_s_and_has_no_text() -> None:
    tokenizer, package = ours("bpe", "identity"), theirs("bpe", "identity")
    assert tokenizer.end_of_document == package.eos_id() == 2
    assert tokenizer.token_bytes(2) == tokenizer.token_bytes(1) == b""
    assert tokenizer.token_bytes(N_VOCAB - 1) == b""


def test_settings_are_those_of_training() -> None:
    plain = read_settings(sentencepiece_model("unigram", "identity"), N_VOCAB)
    assert plain == type(plain)(ModelType.UNIGRAM, b"", adds_space=True, drops_spaces=False)
    nfkc = read_settings(sentencepiece_model("bpe", "nmt_nfkc"), N_VOCAB)
    assert (nfkc.model_type, nfkc.drops_spaces) == (ModelType.BPE, True)
    assert len(nfkc.charsmap) > 100_000


MODEL = sentencepiece_model("bpe", "identity")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "has 0 pieces"),
        (b"\x0a\x05\x0a\x03abc" * (N_VOCAB + 1), "501 pieces; the model has embeddings for 500"),
        (b"\x0a\x7fabc", "cut off"),
        (b"\x0a" + b"\xff" * 20, "a number has no end"),
        (b"\x0b", "a field of kind 3"),
        (MODEL + b"\x12\x05abc", "cut off"),
        (MODEL + b"\x18\x05", "no message"),
        (MODEL + b"\x12\x02\x18\x63", "its type does not exist"),
        (MODEL + b"\x1a\x02\x10\x07", "table is no bytes"),
        (MODEL + b"\x1a\x06\x12\x04\xff\xff\xff\xff", "table is damaged"),
        (b"\x0a\x05\x0a\x03abc", "refused"),
        (MODEL[: len(MODEL) // 2], "cut off|refused"),
        (b"\x0a\x00" * 3, "refused"),
        (MODEL + b"\x0a\x00" * (SPARE_BYTES + BYTES_PER_ID * N_VOCAB), "at most 2,225,152 are"),
    ],
)
def test_a_damaged_model_is_refused(
    model: bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        SentencePieceTokenizer(model, N_VOCAB)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("model", [MODEL + b"\x12\x03\xc0\x01\x01", MODEL + b"\x2a\x03\x12\x01a"])
def test_a_model_that_works_otherwise_is_unsupported(model: bytes) -> None:
    with pytest.raises(UnsupportedModelError, match="spaces after words or changes decoded text"):
        SentencePieceTokenizer(model, N_VOCAB)


def test_a_model_cut_anywhere_is_an_error_of_ours() -> None:
    for length in range(0, len(MODEL), 97):
        with contextlib.suppress(FormatError):
            SentencePieceTokenizer(MODEL[:length], N_VOCAB)


def test_a_piece_or_a_surface_that_is_no_utf8_is_refused() -> None:
    """The library gives it to Python, which raises an error of its own."""
    piece = MODEL.index("▁".encode()) + 1
    surface = MODEL + b"\x12\x05" + b"\xe2\x02\x02\xff\xfe"
    for model in (MODEL[:piece] + b"\xc3" + MODEL[piece + 1 :], surface):
        with pytest.raises(FormatError, match=r"no UTF-8|is refused"):
            SentencePieceTokenizer(model, N_VOCAB)


def test_fields_are_walked_as_protobuf_writes_them() -> None:
    message = b"\x08\x96\x01" + b"\x12\x02hi" + b"\x1d1234" + b"\x2112345678"
    assert list(fields(message)) == [(1, 150), (2, b"hi"), (3, b"1234"), (4, b"12345678")]


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "rwkv-edge\[spm\]"'):
        SentencePieceTokenizer(MODEL, N_VOCAB)


@all_models
def test_sections_of_a_long_text_neither_lose_nor_invent_spaces(
    kind: str, normalizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "SHORTEST_BYTES", 1)
    tokenizer = ours(kind, normalizer)
    text = "Hello Bob\nHello Bob\nwhat a day\n"
    found = list(tokenizer.encode_stream([text.encode()]))
    assert len(found) == 3
    read = tokenizer.decode([token for section in found for token in section.tokens])
    # NFKC makes spaces of line ends.
    assert read.split() == text.split()
    assert len(read) == len(text)
    second = found[0].n_bytes
    assert list(tokenizer.encode_stream([text[second:].encode()], begins=False)) == found[1:]
