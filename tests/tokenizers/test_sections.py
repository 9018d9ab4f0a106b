"""Texts in sections: the same tokens as of the whole, in bounded memory."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rwkv_edge.errors import InputError
from rwkv_edge.tokenizers import ByteTokenizer, Section, Tokenizer, WorldTokenizer, sections, world
from rwkv_edge.tokenizers.sections import LONGEST_BYTES, SECTION_TOKENS, blocks, split_text

# All bytes, and words that reach far beyond one another.
WORDS = [b"ab", b"abc", b"abcabcab", b"aaaaaaaaaaaaaaaa", b"bc", b" the", b"the rain"]
VOCABULARY = [b"", *(bytes([i]) for i in range(256)), *WORDS]
# Nothing begins with c, and what begins with b needs more than one byte.
NARROW = [b"", b"a", b"bb", b"abcc", b"\n"]
TEXTS = st.lists(st.sampled_from([*WORDS, b"a", b"c", b"\xff", b" ", b"\n"]), max_size=60)
# Rarely more than a few blocks of the smallest sizes that the tests set.
PIECE_SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@contextmanager
def limits(block_bytes: int, section_tokens: int = 3) -> Iterator[None]:
    """Inside, so few bytes and tokens make a block and a section that some words reach them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "SECTION_TOKENS", section_tokens)
        patch.setattr(world, "blocks", lambda pieces: blocks(pieces, block_bytes))
        yield


def cut(text: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The text in pieces of these sizes, again and again."""
    start = 0
    while start < len(text):
        for size in sizes:
            yield text[start : start + size]
            start += size


def joined(found: list[Section]) -> list[int]:
    return [token for section in found for token in section.tokens]


@settings(deadline=None)
@given(words=TEXTS, sizes=PIECE_SIZES, block_bytes=st.integers(1, 70), n=st.integers(1, 9))
def test_world_gives_the_tokens_of_the_whole_wherever_pieces_end(
    words: list[bytes], sizes: list[int], block_bytes: int, n: int
) -> None:
    text = b"".join(words)
    tokenizer = WorldTokenizer(VOCABULARY)
    with limits(block_bytes, n):
        found = list(tokenizer.encode_stream(cut(text, sizes)))
    assert joined(found) == tokenizer.encode(text)
    assert all(len(section.tokens) == n for section in found[:-1])
    for section in found:
        assert section.n_bytes == len(tokenizer.decode_bytes(section.tokens))


@settings(deadline=None)
@given(text=st.binary(max_size=3000), sizes=PIECE_SIZES)
def test_bytes_are_the_bytes_wherever_pieces_end(text: bytes, sizes: list[int]) -> None:
    found = list(ByteTokenizer().encode_stream(cut(text, sizes)))
    assert joined(found) == list(text)
    assert [section.n_bytes for section in found] == [len(section.tokens) for section in found]


@pytest.fixture(scope="session")
def world_tokenizer(world_vocabulary: list[bytes]) -> WorldTokenizer:
    return WorldTokenizer(world_vocabulary)


@settings(deadline=None, max_examples=20)
@given(start=st.integers(0, 900_000), size=st.integers(1, 100_000))
def test_a_megabyte_in_the_world_vocabulary_gives_the_tokens_of_the_whole(
    world_tokenizer: WorldTokenizer, mixed_bytes: bytes, start: int, size: int
) -> None:
    text = mixed_bytes[start : start + 200_000]
    found = list(world_tokenizer.encode_stream(cut(text, [size])))
    assert joined(found) == world_tokenizer.encode(text)


@settings(deadline=None)
@given(words=TEXTS, after=st.integers(0, 20), block_bytes=st.integers(1, 70))
def test_what_follows_a_section_has_the_same_sections_by_itself(
    words: list[bytes], after: int, block_bytes: int
) -> None:
    text = b"".join(words)
    with limits(block_bytes):
        for tokenizer in (WorldTokenizer(VOCABULARY), ByteTokenizer(), Patterned()):
            found = list(tokenizer.encode_stream([text]))
            start = sum(section.n_bytes for section in found[:after])
            assert list(tokenizer.encode_stream([text[start:]], begins=False)) == found[after:]


@settings(deadline=None)
@given(text=st.text("abc\n", max_size=60), block_bytes=st.integers(1, 10))
@example(text="abb", block_bytes=2)
def test_a_byte_without_entry_is_refused_as_in_the_whole(text: str, block_bytes: int) -> None:
    tokenizer = WorldTokenizer(NARROW)
    with limits(block_bytes):
        try:
            wanted = tokenizer.encode(text)
        except InputError as error:
            with pytest.raises(InputError, match=re.escape(str(error))):
                list(tokenizer.encode_stream([text.encode()]))
        else:
            assert joined(list(tokenizer.encode_stream([text.encode()]))) == wanted


@pytest.mark.parametrize("tokenizer", [WorldTokenizer(VOCABULARY), ByteTokenizer()])
def test_an_endless_text_is_read_as_far_as_it_is_asked_for(tokenizer: Tokenizer) -> None:
    n_read = 0

    def endless() -> Iterator[bytes]:
        nonlocal n_read
        while True:
            n_read += 900
            yield b"the rain " * 100

    stream = tokenizer.encode_stream(endless())
    assert len(next(stream).tokens) == SECTION_TOKENS
    assert n_read <= sections.BLOCK_BYTES + 900


@given(pieces=st.lists(st.binary(max_size=20)), n_bytes=st.integers(1, 10))
def test_blocks_are_the_text_in_equal_parts(pieces: list[bytes], n_bytes: int) -> None:
    found = list(blocks(pieces, n_bytes))
    assert b"".join(found) == b"".join(pieces)
    assert all(len(block) == n_bytes for block in found[:-1])
    assert all(0 < len(block) <= n_bytes for block in found)


class Patterned(Tokenizer):
    """Tokens that no merge can make longer: what the pattern of GPT-2 cuts a text into."""

    n_vocab = 1 << 60
    end_of_document = None
    # `[^\W\d_]` is any letter.
    pattern = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")

    def encode(self, text: str | bytes) -> list[int]:
        text = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
        return [hash(word) for word in self.pattern.findall(text)]

    def token_bytes(self, token: int) -> bytes:
        raise NotImplementedError


LINES = st.lists(
    st.sampled_from(
        ["word", " word", "\n", "\n\n", "\n  ", "\r\n", "\t", " ", "\u3000", "\u2028", "\xa0",
         "\x85", "'s", "1", "!", "。", "日本", "é", "🙂", "_", "\x1c"]
    ),
    max_size=80,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(parts=LINES, shortest=st.integers(0, 20))
@example(parts=["word", "\n", "\u3000", "word"], shortest=0)
@example(parts=["word", "\n", "\n", "word"], shortest=0)
def test_a_text_is_cut_where_no_pattern_reaches_across(parts: list[str], shortest: int) -> None:
    text = "".join(parts)
    tokenizer = Patterned()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "SHORTEST_BYTES", shortest)
        found = list(tokenizer.encode_stream([text.encode()]))
    assert joined(found) == tokenizer.encode(text)
    # Else this would prove nothing: lines of words are cut.
    if re.search(r"\w\n\w", text[shortest:]) and text.isascii() and shortest == 0:
        assert len(found) > 1


@pytest.mark.parametrize("space", [chr(i) for i in range(0x110000) if chr(i).isspace()])
def test_no_kind_of_white_space_beside_a_line_end_is_parted_from_it(space: str) -> None:
    tokenizer = Patterned()
    for text in (f"word{space}\nword", f"word\n{space}{space}word", f"日本{space}\n日本"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sections, "SHORTEST_BYTES", 0)
            found = list(tokenizer.encode_stream([text.encode()]))
        assert joined(found) == tokenizer.encode(text)


def test_lines_make_sections_of_a_bounded_size() -> None:
    text = b"A line of words, and one more.\n" * 10_000
    found = list(split_text(cut(text, [777])))
    assert b"".join(found) == text
    assert {len(part) for part in found[:-1]} == {1054}


@settings(deadline=None, max_examples=30)
@given(
    line=st.sampled_from(["word ", "\n", "日本語", "🙂", "x", "\u3000", "a\n  "]),
    n=st.integers(1, 30_000),
    size=st.integers(1, 40_000),
)
def test_a_text_without_good_places_is_cut_all_the_same(line: str, n: int, size: int) -> None:
    text = line.encode() * n
    found = list(split_text(cut(text, [size])))
    assert b"".join(found) == text
    assert max(map(len, found)) <= LONGEST_BYTES
    # Never within a character, and never between a space and its word.
    assert all(part.decode("utf-8") for part in found)
    assert not any(part.endswith(b" ") for part in found[:-1])


def test_bytes_that_are_no_characters_are_cut_too() -> None:
    text = b"\x80" * 50_000
    found = list(split_text([text]))
    assert b"".join(found) == text
    assert max(map(len, found)) <= LONGEST_BYTES


def test_a_real_bpe_gives_the_tokens_of_the_whole(mixed_text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.normalizer = tokenizers.normalizers.NFC()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    # Lines of each length, whatever they hold.
    text = re.sub(r"(\w) (?=\w)", "\\1\n", mixed_text[:300_000])
    bpe.train_from_iterator([text], trainer)

    class Bpe(Patterned):
        def encode(self, text: str | bytes) -> list[int]:
            assert isinstance(text, bytes)
            return list(bpe.encode(text.decode("utf-8")).ids)

    found = list(Bpe().encode_stream(cut(text.encode(), [5000])))
    assert len(found) > 100
    assert joined(found) == Bpe().encode(text.encode())
