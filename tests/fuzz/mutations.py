"""Damage: what a seed makes of a file. The same seed makes the same file on every machine."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A change of a file: (random, its bytes, all files of its kind) to other bytes.
Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

# Where lengths, counts and offsets turn over.
BOUNDARIES = sorted(
    {
        max(0, (1 << bits) + step)
        for bits in (0, 3, 5, 7, 8, 15, 16, 17, 24, 28, 30, 31, 32, 33, 40, 48, 60, 61, 62, 63, 64)
        for step in (-1, 0, 1)
    }
)
MAX_CHANGES = 5
# Longest piece that is copied, moved or inserted.
MAX_PIECE = 4096


@dataclass(frozen=True)
class Damaged:
    """A file and how it was made: from which file of the corpus, by which changes."""

    data: bytes
    source: str
    changes: tuple[str, ...]


def damage(
    seed: str,
    corpus: dict[str, bytes],
    special: Sequence[Change],
    without: frozenset[int] = frozenset(),
) -> Damaged:
    """One to MAX_CHANGES changes of one file of the corpus, half of them special ones.

    special: changes that know the kind of file. without: the numbers of changes that are left
    out, to find out which ones matter; each has a seed of its own, and so stays what it is.
    """
    chosen = random.Random(seed)
    source = chosen.choice(sorted(corpus))
    data = corpus[source]
    others = [corpus[name] for name in sorted(corpus)]
    made = []
    for number in range(1 + min(int(chosen.expovariate(0.7)), MAX_CHANGES - 1)):
        own = random.Random(f"{seed}/{number}")
        change = own.choice(special if special and own.random() < 0.5 else GENERIC)
        if number not in without:
            data = change(own, data, others)
            made.append(f"{number}:{change.__name__}")
    return Damaged(data, source, tuple(made))


def place(rng: random.Random, data: bytes, n_bytes: int = 1) -> int:
    """Where to change `n_bytes`: mostly near the beginning or the end, where headers are."""
    last = max(0, len(data) - n_bytes)
    kind = rng.random()
    if kind < 0.5:
        return rng.randint(0, min(last, 1 << rng.randint(3, 13)))
    if kind < 0.65:
        return max(0, last - rng.randint(0, 1 << rng.randint(3, 11)))
    return rng.randint(0, last)


def replaced(data: bytes, start: int, n_bytes: int, new: bytes) -> bytes:
    return data[:start] + new + data[start + n_bytes :]


def boundary(rng: random.Random, n_bytes: int, size: int = 0) -> bytes:
    """A number that readers may trip over, little-endian most of the time."""
    value = rng.choice([*BOUNDARIES, size, size + 1, max(0, size - 1), rng.randint(0, 1 << 64)])
    order = "little" if rng.random() < 0.8 else "big"
    return (value % (1 << 8 * n_bytes)).to_bytes(n_bytes, order)  # type: ignore[arg-type]


def flip_bit(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    at = place(rng, data)
    return replaced(data, at, 1, bytes([data[at] ^ 1 << rng.randrange(8)])) if data else data


def set_byte(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    new = rng.choice([0, 1, 8, 9, 0x20, 0x5C, 0x7F, 0x80, 0xC3, 0xFF, rng.randrange(256)])
    return replaced(data, place(rng, data), 1, bytes([new]))


def set_number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    n_bytes = rng.choice([2, 4, 4, 8, 8])
    at = place(rng, data, n_bytes)
    if rng.random() < 0.5:
        at -= at % n_bytes
    return replaced(data, at, n_bytes, boundary(rng, n_bytes, len(data)))


def add_to_number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    n_bytes = rng.choice([1, 2, 4, 8])
    at = place(rng, data, n_bytes)
    value = int.from_bytes(data[at : at + n_bytes], "little") + rng.choice([-32, -1, 1, 2, 32])
    return replaced(data, at, n_bytes, (value % (1 << 8 * n_bytes)).to_bytes(n_bytes, "little"))


def set_digits(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Another number in place of one that is spelled in digits."""
    del others
    at = place(rng, data)
    while at < len(data) and not 0x30 <= data[at] <= 0x39:
        at += 1
    end = at
    while end < len(data) and 0x30 <= data[end] <= 0x39:
        end += 1
    value = rng.choice([*BOUNDARIES, 10**30, 10**400])
    digits = rng.choice([str(value), f"-{value}", f"{value}.5", "1e400", "007", ""])
    return replaced(data, at, end - at, digits.encode()) if end > at else data


def cut(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    return data[: place(rng, data)]


def delete_piece(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    return replaced(data, place(rng, data), piece_length(rng), b"")


def repeat_piece(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    at = place(rng, data)
    piece = data[at : at + piece_length(rng)]
    return replaced(data, at, 0, piece * rng.choice([1, 1, 2, 40]))


def swap_pieces(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    n_bytes = min(piece_length(rng), len(data) // 2)
    first, second = sorted(place(rng, data, n_bytes) for _ in range(2))
    if first + n_bytes > second:
        return data
    one, two = data[first : first + n_bytes], data[second : second + n_bytes]
    return replaced(replaced(data, first, n_bytes, two), second, n_bytes, one)


def insert_noise(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    noise = rng.randbytes(rng.choice([1, 4, 8, 100]))
    filler = bytes([rng.choice([0, 0xFF, 0x28, 0x5B, 0x7B])]) * piece_length(rng)
    return replaced(data, place(rng, data), 0, rng.choice([noise, filler]))


def fill_piece(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Zeros, ones, or the float16 and float32 that are infinite or no number."""
    del others
    n_bytes = min(piece_length(rng), len(data))
    pattern = rng.choice([b"\0", b"\xff", b"\x00\x7c", b"\x00\x7e", b"\x00\x00\xc0\x7f"])
    filler = (pattern * n_bytes)[:n_bytes]
    return replaced(data, place(rng, data, n_bytes), n_bytes, filler)


def splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The beginning of one file and the end of another, or a piece of another in the middle."""
    other = rng.choice(others)
    if rng.random() < 0.5:
        return data[: place(rng, data)] + other[place(rng, other) :]
    at = place(rng, other)
    piece = other[at : at + piece_length(rng)]
    return replaced(data, place(rng, data), rng.choice([0, len(piece)]), piece)


def piece_length(rng: random.Random) -> int:
    return rng.randint(1, 1 << rng.randint(1, MAX_PIECE.bit_length() - 1))


GENERIC: tuple[Change, ...] = (
    flip_bit,
    set_byte,
    set_number,
    add_to_number,
    set_digits,
    cut,
    delete_piece,
    repeat_piece,
    swap_pieces,
    insert_noise,
    fill_piece,
    splice,
)
