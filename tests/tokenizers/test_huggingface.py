"""Against the tokenizers package itself, on files that it trained."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rwkv_edge.errors import BackendUnavailableError, InputError
from rwkv_edge.tokenizers import HuggingFaceTokenizer, StreamingDecoder

tokenizers = pytest.importorskip("tokenizers")
from tests.tokenizers.foreign_files import (  # noqa: E402 - it imports what may be missing
    NEVER_IN_UTF8,
    changed,
    neox_json,
    spaces_bpe_json,
    unigram_json,
    untimed,
)

N_VOCAB = 1000
FILES: dict[str, Callable[[], str]] = {
    "neox": neox_json,
    "spaces": spaces_bpe_json,
    "unigram": unigram_json,
}
# Words of the vocabulary, spaces in all numbers, control texts, characters that NFC joins.
PARTS = [
    "Hello", " Bob", "  ", "   ", "\n", "\n\n", "\t", "<|endoftext|>", "<|padding|>", "</s>", "<s>",
    "<unk>", "<pad>", "<0x41>", "▁", "e\u0301", "\u0301", "é", "Ġ", "日", "🙂", "булок",
    "'s", "\x00", "1",
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=6))).map("".join)
WITHOUT_CONTROL = TEXTS.filter(lambda text: "<" not in text)


def ours(name: str) -> HuggingFaceTokenizer:
    return LOADED.setdefault(name, HuggingFaceTokenizer(FILES[name](), N_VOCAB))


LOADED: dict[str, HuggingFaceTokenizer] = {}


def theirs(name: str) -> Any:
    return tokenizers.Tokenizer.from_str(FILES[name]())


@pytest.mark.parametrize("name", FILES)
@untimed
@given(text=WITHOUT_CONTROL)
def test_ids_are_those_of_the_package(name: str, text: str) -> None:
    assert ours(name).encode(text) == theirs(name).encode(text, add_special_tokens=False).ids


@untimed
@given(text=TEXTS)
@example("a<|endoftext|>b")
@example("<|padding|>")
def test_neox_reads_control_texts_as_text(text: str) -> None:
    package = theirs("neox")
    package.encode_special_tokens = True
    tokens = ours("neox").encode(text)
    assert tokens == package.encode(text).ids
    assert not {0, 1} & set(tokens)


@pytest.mark.parametrize("name", FILES)
@untimed
@given(text=TEXTS)
@example("a </s><s> <unk> <pad>")
@example("<0x41>")
@example("\uff1c/s\uff1e")  # NFKC makes </s> of it
def test_no_text_becomes_a_control_id_or_names_a_byte(name: str, text: str) -> None:
    tokenizer = ours(name)
    tokens = tokenizer.encode(text)
    assert tokenizer.control.isdisjoint(tokens)
    if tokenizer.unknown not in tokens and "<0x41>" in text:
        assert "<0x41>" in tokenizer.decode(tokens)


@untimed
@given(text=TEXTS)
def test_neox_gives_the_text_back_in_nfc(text: str) -> None:
    import unicodedata

    tokenizer = ours("neox")
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("name", FILES)
@untimed
@given(data=st.data())
def test_text_of_ids_is_that_of_the_package(name: str, data: st.DataObject) -> None:
    tokenizer = ours(name)
    tokens = data.draw(st.lists(st.integers(0, tokenizer.n_ids - 1), max_size=8))
    if not tokenizer.scheme.is_byte_level:
        # The package shows bytes that make no character otherwise than Python does.
        tokens = [token for token in tokens if token not in tokenizer.byte_ids.values()]
    assert tokenizer.decode(tokens) == theirs(name).decode(tokens, skip_special_tokens=True)


@untimed
@given(st.binary(max_size=30))
@example(bytes(range(256)))
@example(b"a\xffb")
def test_bytes_that_are_no_utf8_are_kept_where_they_have_ids(data: bytes) -> None:
    neox = ours("neox")
    decoded = neox.decode_bytes(neox.encode(data))
    import unicodedata

    # Those 13 have no ids: they become U+FFFD, each alone.
    escaped = unicodedata.normalize("NFC", data.decode("utf-8", "surrogateescape"))
    expected = b"".join(
        "\ufffd".encode()
        if 0xDC80 <= ord(char) <= 0xDCFF and ord(char) - 0xDC00 in NEVER_IN_UTF8
        else char.encode("utf-8", "surrogateescape")
        for char in escaped
    )
    assert decoded == expected


def test_bytes_that_are_no_utf8_become_byte_pieces() -> None:
    spaces = ours("spaces")
    assert spaces.decode_bytes(spaces.encode(b"Hello \xff\xc0Bob")) == b"Hello \xff\xc0Bob"


def test_runs_of_spaces_are_one_token_as_in_gpt_neox() -> None:
    tokenizer = ours("neox")
    tokens = tokenizer.encode("a" + " " * 24 + "b")
    assert len(tokens) == 3
    assert tokenizer.texts[tokens[1]] == b" " * 24


@pytest.mark.parametrize(
    ("name", "end"), [("neox", "<|endoftext|>"), ("spaces", "</s>"), ("unigram", "</s>")]
)
def test_the_end_of_a_document_is_found_and_has_no_text(name: str, end: str) -> None:
    tokenizer = ours(name)
    assert tokenizer.end_of_document is not None
    assert tokenizer.pieces[tokenizer.end_of_document] == end
    assert tokenizer.token_bytes(tokenizer.end_of_document) == b""
    if name == "neox":
        assert tokenizer.end_of_document == 0


def test_an_end_that_the_file_calls_a_text_is_none() -> None:
    content = json.loads(neox_json())
    content["added_tokens"][0]["special"] = False
    tokenizer = HuggingFaceTokenizer(json.dumps(content), N_VOCAB)
    assert (tokenizer.end_of_document, tokenizer.token_bytes(0)) == (0, b"")
    assert 0 not in tokenizer.encode("<|endoftext|>")


@pytest.mark.parametrize("name", FILES)
@untimed
@given(text=TEXTS, cut=st.integers(0, 40))
def test_text_that_goes_on_gains_and_loses_no_space(name: str, text: str, cut: int) -> None:
    tokenizer = ours(name)
    head, tail = text[:cut], text[cut:]
    whole = tokenizer.decode(tokenizer.encode_more(text))
    parts = tokenizer.encode_more(head) + tokenizer.encode_more(tail)
    # Some normalizers look at neighbours: compare what they leave alone.
    assert tokenizer.decode(parts).count(" ") == whole.count(" ")


def test_streaming_gives_every_space_and_whole_characters() -> None:
    for name in FILES:
        tokenizer, decoder = ours(name), StreamingDecoder()
        tokens = tokenizer.encode_more(" Hello 日月 Bob")
        pieces = [decoder.push(tokenizer.token_bytes(token)) for token in tokens]
        assert "".join(pieces) + decoder.flush() == " Hello 日月 Bob"
        assert "\ufffd" not in "".join(pieces)


def test_padding_has_no_text_and_ids_beyond_are_refused() -> None:
    tokenizer = ours("neox")
    assert tokenizer.n_vocab == N_VOCAB
    assert tokenizer.token_bytes(N_VOCAB - 1) == b""
    with pytest.raises(InputError):
        tokenizer.token_bytes(N_VOCAB)


def test_a_vocabulary_without_all_bytes_says_what_it_cannot_read() -> None:
    content = json.loads(neox_json())
    vocabulary = content["model"]["vocab"]
    euro_start = "â"  # the byte 0xE2 in GPT-2's alphabet
    content["model"]["merges"] = [
        merge for merge in content["model"]["merges"] if euro_start not in "".join(merge)
    ]
    for text in [text for text in vocabulary if euro_start in text]:
        vocabulary[f"unused {text}"] = vocabulary.pop(text)
    tokenizer = HuggingFaceTokenizer(json.dumps(content), N_VOCAB)
    with pytest.raises(InputError, match="no id for '€'"):
        tokenizer.encode("5 €")
    assert tokenizer.decode(tokenizer.encode("5 é")) == "5 é"


def test_dropout_in_the_file_does_not_make_ids_random() -> None:
    tokenizer = HuggingFaceTokenizer(changed(neox_json(), model_dropout=0.5), N_VOCAB)
    text = "The recurrent state is advanced in place" * 3
    assert tokenizer.encode(text) == ours("neox").encode(text)


def test_truncation_and_padding_in_the_file_do_not_count() -> None:
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 1, "pad_type_id": 0, "pad_token": "<|padding|>",
    }  # fmt: skip
    json_text = changed(neox_json(), truncation=truncation, padding=padding)
    text = "Hello Bob, how are you?"
    assert HuggingFaceTokenizer(json_text, N_VOCAB).encode(text) == ours("neox").encode(text)


@untimed
@given(TEXTS)
def test_a_lone_surrogate_becomes_bytes(text: str) -> None:
    tokenizer = ours("neox")
    assert tokenizer.decode_bytes(tokenizer.encode("a\ud83d")) == b"a\xed\xa0\xbd"
    assert tokenizer.encode(text + "\ud83d")[:-3] == tokenizer.encode(text)


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "rwkv-edge\[neox\]"'):
        HuggingFaceTokenizer(neox_json(), N_VOCAB)
