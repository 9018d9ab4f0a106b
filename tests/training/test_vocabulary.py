"""Greedy longest match as the official package does it, in the official file format."""

import ast
import random

import pytest

from training.vocabulary import N_SINGLE_BYTES, Vocabulary, build_vocabulary, byte_pair_pieces

TEXT = (
    "A database stores data.\n\nThe data in a database is stored in tables, "
    "and the tables are stored in the database file.\n"
) * 8


@pytest.fixture(scope="module")
def vocabulary():
    return build_vocabulary([TEXT], N_SINGLE_BYTES + 1 + 20)


def test_ids_follow_the_world_convention(vocabulary):
    assert len(vocabulary.entries) == N_SINGLE_BYTES + 20
    assert vocabulary.entries[0] == b"\x00"
    assert vocabulary.entries[255] == b"\xff"
    assert all(len(entry) > 1 for entry in vocabulary.entries[N_SINGLE_BYTES:])
    assert len(set(vocabulary.entries)) == len(vocabulary.entries)


def test_encode_takes_the_longest_entry(vocabulary):
    longest = max(vocabulary.entries, key=len)
    assert vocabulary.encode(longest).tolist() == [vocabulary.entries.index(longest) + 1]


def test_any_bytes_survive_encode_and_decode(vocabulary):
    data = random.Random(3).randbytes(1000) + "naïve 🪿".encode()
    assert vocabulary.decode(vocabulary.encode(data).tolist()) == data
    assert vocabulary.encode(b"").size == 0


def test_no_piece_holds_two_newlines(vocabulary):
    assert all(entry.count(b"\n") < 2 for entry in vocabulary.entries)


def test_written_file_reads_back_line_by_line(vocabulary, tmp_path):
    vocabulary.write(tmp_path / "vocab.txt")
    for index, line in enumerate((tmp_path / "vocab.txt").read_text("utf-8").splitlines()):
        number, rest = line.split(" ", 1)
        literal, n_bytes = rest.rsplit(" ", 1)
        value = ast.literal_eval(literal)
        entry = value.encode() if isinstance(value, str) else value
        assert (int(number), int(n_bytes)) == (index + 1, len(entry))
        assert entry == vocabulary.entries[index]
    assert Vocabulary.read(tmp_path / "vocab.txt").entries == vocabulary.entries


def test_encode_matches_the_official_tokenizer(vocabulary, tmp_path):
    official = pytest.importorskip("rwkv.rwkv_tokenizer", reason="needs the official rwkv package")
    vocabulary.write(tmp_path / "vocab.txt")
    tokenizer = official.TRIE_TOKENIZER(str(tmp_path / "vocab.txt"))
    assert vocabulary.encode(TEXT).tolist() == tokenizer.encode(TEXT)


def test_single_bytes_must_come_first():
    with pytest.raises(ValueError, match="single bytes"):
        Vocabulary([b"a", b"b"])


def test_byte_pairs_merge_the_most_frequent_first():
    assert byte_pair_pieces({b"abab": 3, b"bc": 1}, 2) == [b"ab", b"abab"]
