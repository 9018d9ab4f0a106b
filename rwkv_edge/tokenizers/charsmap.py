"""The table of a compiled normalizer, which sentencepiece made and others copy.

Libraries walk it without looking where they step: sentencepiece before 0.2.3 dies of a damaged one.
Layout: the bytes of a trie (uint32), the trie, texts that end with a zero byte each.
Source: sentencepiece, `normalizer.cc`; the trie's units are those of Darts-clone.
"""

import numpy as np

from rwkv_edge.errors import FormatError

SIZE_BYTES = 4
HAS_LEAF = np.uint32(1 << 8)
# A value, or for a unit that is not one: where its children lie, in units or in 256 of them.
IS_VALUE = np.uint32(1 << 31)
IS_FAR = np.uint32(1 << 9)
OFFSET_SHIFT, FAR_SHIFT = 10, 8


def check_charsmap(table: bytes) -> None:
    """Raise FormatError unless every step through the table stays inside it.

    An empty table normalizes nothing.
    """
    if not table:
        return
    n_bytes = int.from_bytes(table[:SIZE_BYTES], "little")
    texts = table[SIZE_BYTES + n_bytes :]
    if len(table) < SIZE_BYTES + n_bytes or n_bytes % 4 or not n_bytes:
        raise damaged("its trie is cut off")
    units = np.frombuffer(table, "<u4", n_bytes // 4, SIZE_BYTES)
    offsets = (units >> OFFSET_SHIFT).astype(np.int64)
    offsets <<= np.where(units & IS_FAR, FAR_SHIFT, 0)
    children = np.arange(units.size) ^ offsets
    inner = (units & IS_VALUE) == 0
    # The first step starts at the root, whatever its bits say.
    inner[0] = True
    # A step goes to a child by the next byte of the text: any of 256.
    if (children[inner] | 0xFF).max(initial=0) >= units.size:
        raise damaged("its trie points outside itself")
    leaves = children[inner & ((units & HAS_LEAF) != 0)]
    values = units[leaves] & ~IS_VALUE
    if values.max(initial=0) >= max(len(texts), 1) or (texts and texts[-1] != 0):
        raise damaged("its trie points outside its texts")
    if leaves.size and not texts:
        raise damaged("its texts are missing")
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError:
        raise damaged("its texts are no UTF-8") from None
    starts = np.frombuffer(texts, np.uint8)[values]
    if ((starts & 0xC0) == 0x80).any():
        raise damaged("its trie points into the middle of a character")


def damaged(problem: str) -> FormatError:
    """The error for a table that must not be used."""
    return FormatError(f"its normalizer's table is damaged: {problem}")
