"""A small vocabulary for greedy longest match, in the World text format.

Ids follow the World vocabulary: 0 ends a document and has no entry, 1..256 are the single bytes in
order, 257 and up are longer pieces. At every position the longest entry that matches is taken.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

END_OF_DOCUMENT = 0
N_SINGLE_BYTES = 256
# A piece never crosses these borders: a word takes the space before it (as in GPT-2), digits stay
# single, and no piece holds two newlines, so that a blank line is always the same two tokens.
PRETOKEN = re.compile(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\n| +(?= )|\s")
CANDIDATES_PER_PIECE = 1.4
PRUNING_ROUNDS = 6


def byte_pair_pieces(words: Counter[bytes], n_pieces: int) -> list[bytes]:
    """The first `n_pieces` byte-pair merges over the counted words, most frequent pair first."""
    symbols = [[bytes([byte]) for byte in word] for word in words]
    counts = list(words.values())
    pair_counts: Counter[tuple[bytes, bytes]] = Counter()
    words_with: defaultdict[tuple[bytes, bytes], set[int]] = defaultdict(set)
    for index, word in enumerate(symbols):
        for pair in pairwise(word):
            pair_counts[pair] += counts[index]
            words_with[pair].add(index)
    pieces: dict[bytes, None] = {}
    while len(pieces) < n_pieces:
        # Ties are broken by the bytes, so that the same corpus gives the same vocabulary.
        left, right = max(pair_counts, key=lambda pair: (pair_counts[pair], pair))
        pieces[left + right] = None
        for index in words_with.pop((left, right)):
            word = symbols[index]
            for pair in pairwise(word):
                pair_counts[pair] -= counts[index]
            merged: list[bytes] = []
            position = 0
            while position < len(word):
                if word[position : position + 2] == [left, right]:
                    merged.append(left + right)
                    position += 2
                else:
                    merged.append(word[position])
                    position += 1
            symbols[index] = merged
            for pair in pairwise(merged):
                pair_counts[pair] += counts[index]
                words_with[pair].add(index)
        del pair_counts[left, right]
    return list(pieces)


def trie_of(entries: Sequence[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`children` (n_nodes, 256), 0 for none, and `token` (n_nodes,), the id that ends there."""
    children: list[NDArray[np.int32]] = [np.zeros(256, np.int32)]
    token = [0]
    for index, entry in enumerate(entries):
        node = 0
        for byte in entry:
            if not children[node][byte]:
                children[node][byte] = len(children)
                children.append(np.zeros(256, np.int32))
                token.append(0)
            node = int(children[node][byte])
        token[node] = index + 1
    return np.stack(children), np.array(token, np.int32)


@njit(cache=True)
def _greedy_tokens(text, children, token, out):  # type: ignore[no-untyped-def]
    """Writes the ids of `text` (bytes) into `out`, returns how many."""
    position = 0
    n_tokens = 0
    while position < text.size:
        node = 0
        end = position
        best_end = position + 1
        best = 0
        while end < text.size:
            node = children[node, text[end]]
            if node == 0:
                break
            end += 1
            if token[node] != 0:
                best = token[node]
                best_end = end
        out[n_tokens] = best
        n_tokens += 1
        position = best_end
    return n_tokens


class Vocabulary:
    """Entries by id - 1; `encode` takes the longest entry at every position."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        if list(entries[:N_SINGLE_BYTES]) != [bytes([byte]) for byte in range(N_SINGLE_BYTES)]:
            raise ValueError("the first 256 entries must be the single bytes in order")
        self.entries = list(entries)
        self.children, self.token = trie_of(entries)

    def encode(self, text: str | bytes) -> NDArray[np.int32]:
        data = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)
        out = np.empty(data.size, np.int32)
        n_tokens = _greedy_tokens(data, self.children, self.token, out)
        return np.resize(out, n_tokens)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of `tokens`; END_OF_DOCUMENT has none."""
        return b"".join(self.entries[token - 1] for token in tokens if token)

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """From a file that `write` made."""
        entries = []
        for line in path.read_text(encoding="utf-8").splitlines():
            value = ast.literal_eval(line[line.index(" ") + 1 : line.rindex(" ")])
            entries.append(value.encode() if isinstance(value, str) else value)
        return cls(entries)

    def write(self, path: Path) -> None:
        """World text format: `<id> <repr of str, or of bytes> <length in bytes>` a line."""
        lines = []
        for index, entry in enumerate(self.entries):
            try:
                text = repr(entry.decode("utf-8"))
            except UnicodeDecodeError:
                text = repr(entry)
            lines.append(f"{index + 1} {text} {len(entry)}\n")
        path.write_text("".join(lines), encoding="utf-8")


def build_vocabulary(texts: Sequence[str], n_vocab: int) -> Vocabulary:
    """A vocabulary of ids 0..n_vocab-1 in which greedy matching of `texts` uses every piece well.

    Byte-pair encoding proposes more pieces than fit; those which save greedy matching the fewest
    tokens (mere steps on the way to longer pieces) are dropped round by round.
    """
    singles = [bytes([byte]) for byte in range(N_SINGLE_BYTES)]
    n_pieces = n_vocab - 1 - N_SINGLE_BYTES
    words: Counter[bytes] = Counter()
    for text in texts:
        words.update(match.encode() for match in PRETOKEN.findall(text))
    # A word seen once or twice cannot shape the merges but makes up most of the list.
    frequent = Counter({word: count for word, count in words.items() if count >= 3})
    pieces = byte_pair_pieces(frequent, int(n_pieces * CANDIDATES_PER_PIECE))
    corpus = "\n".join(texts).encode()
    for remaining in np.linspace(len(pieces), n_pieces, PRUNING_ROUNDS + 1)[1:]:
        vocabulary = Vocabulary(singles + pieces)
        uses = np.bincount(vocabulary.encode(corpus), minlength=len(vocabulary.entries) + 1)
        saved = {piece: int(uses[N_SINGLE_BYTES + 1 + index]) for index, piece in enumerate(pieces)}
        pieces = sorted(pieces, key=lambda piece: (-saved[piece], piece))[: int(remaining)]
    return Vocabulary(singles + sorted(pieces))
