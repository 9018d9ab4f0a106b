"""TRIE_TOKENIZER by its official names, and what WORD_NAME may be."""

import pytest

from rwkv_edge import FormatError, InputError
from rwkv_edge.compat import PIPELINE
from rwkv_edge.compat.rwkv_tokenizer import TRIE_TOKENIZER, load_tokenizer
from tests.tokenizers.foreign_files import neox_json


@pytest.fixture(scope="module")
def tokenizer(builtin_vocabulary):
    return TRIE_TOKENIZER(builtin_vocabulary)


def test_texts_bytes_and_ids_are_turned_into_each_other(tokenizer):
    text = "héllo llamas\n\n"
    tokens = tokenizer.encode(text)
    assert tokens == tokenizer.encodeBytes(text.encode())
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decodeBytes(tokens[:1]) == tokenizer.idx2token[tokens[0]]
    assert all(tokenizer.token2idx[tokenizer.idx2token[token]] == token for token in tokens)


def test_what_is_no_text_is_a_single_replacement_character(tokenizer):
    half = tokenizer.token2idx[b"\xc3"]
    plain = tokenizer.encode("plain")
    for tokens in ([half], [*plain, half], [0], [*plain, 0], [10**6]):
        assert tokenizer.decode(tokens) == "\ufffd"
    assert tokenizer.decode([]) == ""
    with pytest.raises(KeyError):
        tokenizer.decodeBytes([0])


def test_tokens_are_printed_with_their_ids(tokenizer, capsys):
    a, half = tokenizer.token2idx[b"a"], tokenizer.token2idx[b"\xc3"]
    tokenizer.printTokens([a, half])
    assert capsys.readouterr().out == f"'a'{a} b'\\xc3'{half} \n"


def test_world_is_found_by_its_name():
    pipeline = PIPELINE(None, "rwkv_vocab_v20230424")
    assert pipeline.encode("\n\nUser:") == [261, 24281, 59]
    assert len(pipeline.tokenizer.idx2token) == 65529


def test_world_is_the_official_one():
    official = pytest.importorskip("rwkv.rwkv_tokenizer", reason="rwkv is not installed")
    from pathlib import Path

    theirs = official.TRIE_TOKENIZER(
        str(Path(official.__file__).with_name("rwkv_vocab_v20230424.txt"))
    )
    ours = load_tokenizer("rwkv_vocab_v20230424")
    assert ours.idx2token == theirs.idx2token
    for text in ("Hello, 世界! \U0001f999\n\n\t  0123", "def f(x):\n    return x ** 2\n" * 300, ""):
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("20B_tokenizer.json", InputError, "neither"),
        ("cl100k_base", InputError, "cl100k_base"),
        ("rwkv_vocab_v2023", InputError, "neither"),
    ],
)
def test_other_names_are_refused_with_what_would_do(name, error, message):
    with pytest.raises(error, match=message) as caught:
        PIPELINE(None, name)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_json_gives_what_the_package_that_made_it_gives(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    (tmp_path / "20B_tokenizer.json").write_text(neox_json(), encoding="utf-8")
    ours = load_tokenizer(tmp_path / "20B_tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "20B_tokenizer.json"))
    for text in ("the weather  today,\n\nand 世界 \U0001f999", "    x = 1\n", ""):
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text).ids)
    pipeline = PIPELINE(None, str(tmp_path / "20B_tokenizer.json"))
    assert pipeline.decode(pipeline.encode("of the weather")) == "of the weather"


def test_a_damaged_list_is_refused_by_its_own_error(tmp_path):
    (tmp_path / "list.txt").write_text("1 'a' 7\n")
    with pytest.raises(FormatError, match=r"list\.txt: line 1"):
        PIPELINE(None, tmp_path / "list.txt")
