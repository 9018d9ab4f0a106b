from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_edge.errors import InputError
from rwkv_edge.tokenizers import WorldTokenizer
from rwkv_edge.tokenizers.world import SHORT_TEXT_BYTES

AB_VOCABULARY = [b"", b"a", b"b", b"ab", b"abab", b"abb", b"bba", b"aaaaaaa"]


def encode_by_kernel(tokenizer: WorldTokenizer, text: bytes) -> list[int]:
    tokens, end = tokenizer._trie.match(text)
    assert end == len(text)
    return tokens


@pytest.fixture(scope="module")
def world(world_vocabulary: list[bytes]) -> WorldTokenizer:
    return WorldTokenizer(world_vocabulary)


def test_encode_matches_official_on_a_megabyte_of_damaged_text(
    world: WorldTokenizer, mixed_bytes: bytes
) -> None:
    official = pytest.importorskip("rwkv.rwkv_tokenizer")
    trie = official.TRIE_TOKENIZER(str(Path(official.__file__).parent / "rwkv_vocab_v20230424.txt"))
    expected = trie.encodeBytes(mixed_bytes)
    assert world.encode(mixed_bytes) == expected
    assert world.encode_plainly(mixed_bytes) == expected


def test_encode_matches_pyrwkv_tokenizer_on_a_megabyte(
    world: WorldTokenizer, mixed_text: str
) -> None:
    package = pytest.importorskip("pyrwkv_tokenizer")
    assert world.encode(mixed_text) == list(package.RWKVTokenizer().encode(mixed_text))


def test_decode_bytes_gives_the_text_back(world: WorldTokenizer, mixed_bytes: bytes) -> None:
    assert world.decode_bytes(world.encode(mixed_bytes)) == mixed_bytes


@given(st.text("ab", max_size=40))
def test_kernel_matches_definition_on_overlapping_entries(text: str) -> None:
    tokenizer = WorldTokenizer(AB_VOCABULARY)
    encoded = text.encode()
    assert encode_by_kernel(tokenizer, encoded) == tokenizer.encode_plainly(encoded)


@settings(max_examples=50)
@given(
    st.lists(st.binary(max_size=5), max_size=60),
    st.lists(st.integers(0, 100), max_size=60),
)
def test_kernel_matches_definition_on_any_vocabulary(
    vocabulary: list[bytes], choices: list[int]
) -> None:
    tokenizer = WorldTokenizer(vocabulary)
    text = b"".join(vocabulary[choice % len(vocabulary)] for choice in choices if vocabulary)
    try:
        expected = tokenizer.encode_plainly(text)
    except InputError:
        # Longest match may walk into a dead end that the shorter entries would have avoided.
        assert tokenizer._trie.match(text)[1] < len(text)
    else:
        assert encode_by_kernel(tokenizer, text) == expected


@pytest.mark.parametrize("n_bytes", [SHORT_TEXT_BYTES - 1, SHORT_TEXT_BYTES])
def test_a_byte_without_entry_is_refused_by_position(n_bytes: int) -> None:
    text = b"a" * (n_bytes - 2) + b"\xffb"
    with pytest.raises(InputError, match=rf"at byte {n_bytes - 2:,} \(0xff\)"):
        WorldTokenizer(AB_VOCABULARY).encode(text)


@pytest.mark.parametrize("token", [-1, len(AB_VOCABULARY), 1 << 40])
def test_a_token_out_of_range_is_refused(token: int) -> None:
    with pytest.raises(InputError, match="0 to 7"):
        WorldTokenizer(AB_VOCABULARY).decode([1, token])


def test_the_last_of_equal_entries_wins() -> None:
    tokenizer = WorldTokenizer([b"", b"a", b"a", b"b"])
    assert tokenizer.encode("ab") == encode_by_kernel(tokenizer, b"ab") == [2, 3]


def test_no_text_becomes_the_end_of_a_document(world: WorldTokenizer) -> None:
    assert world.end_of_document == 0
    assert world.token_bytes(0) == world.token_bytes(65535) == b""
    for text in ("", "\x00", "<s>", "<|endoftext|>", "[PAD65530]"):
        tokens = world.encode(text)
        assert 0 not in tokens
        assert max(tokens, default=0) <= 65529
        assert world.decode(tokens) == text


def test_a_lone_surrogate_is_encoded_and_decodes_to_replacement(world: WorldTokenizer) -> None:
    assert world.decode(world.encode("a\ud83db")) == "a\ufffd\ufffd\ufffdb"


def test_a_vocabulary_without_any_text_encodes_the_empty_text() -> None:
    tokenizer = WorldTokenizer([b"", b""])
    assert tokenizer.encode("") == encode_by_kernel(tokenizer, b"") == []
    with pytest.raises(InputError):
        tokenizer.encode("a")
