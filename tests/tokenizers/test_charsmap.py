"""Tables of compiled normalizers, as sentencepiece makes them and as an attacker would."""

import random
import struct

import pytest

from rwkv_edge.errors import FormatError
from rwkv_edge.tokenizers.charsmap import check_charsmap
from rwkv_edge.tokenizers.sentencepiece_file import read_settings

pytest.importorskip("sentencepiece")
from tests.tokenizers.foreign_files import sentencepiece_model


@pytest.fixture(scope="module")
def table() -> bytes:
    return read_settings(sentencepiece_model("bpe", "nmt_nfkc"), 1000).charsmap


def units_of(table: bytes) -> tuple[list[int], bytes]:
    (n_bytes,) = struct.unpack_from("<I", table)
    return list(struct.unpack_from(f"<{n_bytes // 4}I", table, 4)), table[4 + n_bytes :]


def table_of(units: list[int], texts: bytes) -> bytes:
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + texts


def walk(units: list[int], texts: bytes, text: bytes) -> list[bytes]:
    """All entries that `text` begins with, as Darts-clone finds them; IndexError outside."""
    found = []
    position = 0
    unit = units[0]

    def offset(unit: int) -> int:
        return (unit >> 10) << ((unit & (1 << 9)) >> 6)

    position ^= offset(unit)
    for byte in text:
        position ^= byte
        unit = units[position]
        if unit & (1 << 31 | 0xFF) != byte:
            break
        position ^= offset(unit)
        if unit >> 8 & 1:
            value = units[position] & ((1 << 31) - 1)
            found.append(texts[value : texts.index(b"\0", value)])
    return found


def test_the_table_of_sentencepiece_passes(table: bytes) -> None:
    check_charsmap(table)
    check_charsmap(b"")
    units, texts = units_of(table)
    assert table_of(units, texts) == table
    assert walk(units, texts, "①".encode()) == [b"1"]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"\x01", "cut off"),
        (b"\x00\x00\x00\x00", "cut off"),
        (b"\x03\x00\x00\x00abc", "cut off"),
        (b"\xff\xff\xff\xff\x00\x00\x00\x00", "cut off"),
        (table_of([0], b"\0"), "points outside itself"),
        (table_of([0] * 256, b"\0"), None),
        (table_of([0xFFFFFC00 | 1 << 31] + [1 << 31] * 255, b"\0"), "points outside itself"),
        (table_of([1 << 8 | 1 << 10] + [1 << 31 | 2] * 511, b"abc\0"), None),
        (table_of([1 << 8 | 1 << 10] + [1 << 31 | 5] * 511, b"abc\0"), "outside its texts"),
        (table_of([1 << 8 | 1 << 10] + [1 << 31] * 511, b"abc"), "outside its texts"),
        (table_of([1 << 8 | 1 << 10] + [1 << 31] * 511, b""), "outside its texts|missing"),
        (table_of([1 << 8 | 1 << 10] + [1 << 31] * 511, b"\xff\0"), "no UTF-8"),
        (table_of([1 << 8 | 1 << 10] + [1 << 31 | 1] * 511, "é\0".encode()), "middle of a char"),
    ],
)
def test_a_step_outside_the_table_is_refused(damaged: bytes, message: str | None) -> None:
    if message is None:
        check_charsmap(damaged)
        return
    with pytest.raises(FormatError, match=message):
        check_charsmap(damaged)


def test_no_text_leaves_a_table_that_passes(table: bytes) -> None:
    """Damaged at random; every walk through what passes stays inside."""
    units, texts = units_of(table)
    # Those that many texts reach lie at the front.
    texts_to_try = [chr(code).encode() for code in range(0x80, 0xD800, 37)]
    n_passed = n_refused = 0
    rng = random.Random(4)
    for _ in range(120):
        changed = units.copy()
        for _ in range(rng.choice([1, 3, 30])):
            place = rng.randrange(len(units) if rng.random() < 0.5 else 300)
            changed[place] = rng.choice(
                [changed[place] ^ 1 << rng.randrange(32), rng.getrandbits(32)]
            )
        try:
            check_charsmap(table_of(changed, texts))
        except FormatError:
            n_refused += 1
            continue
        n_passed += 1
        for text in texts_to_try:
            walk(changed, texts, text)
    assert n_passed > 5
    assert n_refused > 5
