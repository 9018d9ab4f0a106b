"""Longest match against a vocabulary, as a walk through a trie whose edges lie in a hash table."""

from collections.abc import Sequence

import numpy as np

from rwkv_edge.jit import inline, kernel

ROOT = 0
# Nodes are numbered from 1, so that no edge leads to the root.
NO_NODE = 0
NO_TOKEN = -1
# A node and a byte share the 32 bits of an edge's key.
MAX_NODES = 1 << 24
# 2^32 divided by the golden ratio: neighbouring edges land far apart. Source: Knuth, vol. 3, 6.4.
FIBONACCI = np.uint32(2654435769)
WORD_BITS = 32


@inline
def edge_slot(edges, shift, node, byte):
    """Where the edge (node, byte) is, or the free slot where it belongs."""
    key = np.uint32((node << 8) | byte)
    slot = np.intp(np.uint32(key * FIBONACCI) >> np.uint32(shift))
    while edges[slot, 1] != NO_NODE and edges[slot, 0] != key:
        slot = (slot + 1) & (len(edges) - 1)
    return slot


@kernel
def build_trie(texts, ends, shift, edges, tokens):
    """Insert entry after entry; of equal entries the last stays.

    texts: all entries, joined, uint8; ends: where each ends, int64; an empty one is no entry.
    edges: (2^(32 - shift), 2) uint32, zeros, more rows than len(texts); becomes a hash table with
    open addressing of (node << 8 | byte, child).
    tokens: (len(texts) + 1,) int32; becomes the entry that ends at each node, or NO_TOKEN.
    Gives the number of nodes.
    """
    tokens[:] = NO_TOKEN
    n_nodes = 1
    start = 0
    for token in range(len(ends)):
        node = ROOT
        for position in range(start, ends[token]):
            slot = edge_slot(edges, shift, node, texts[position])
            if edges[slot, 1] == NO_NODE:
                edges[slot, 0] = np.uint32((node << 8) | texts[position])
                edges[slot, 1] = n_nodes
                n_nodes += 1
            node = np.intp(edges[slot, 1])
        if node != ROOT:
            tokens[node] = token
        start = ends[token]
    return n_nodes


@kernel
def longest_match(text, shift, edges, tokens, out):
    """At every position the entry with the longest text that matches.

    text: uint8; out: (len(text),) int32, overwritten. Gives how many tokens were written and
    where it ended: len(text), or the position where no entry matches.
    """
    n_tokens = 0
    start = 0
    while start < len(text):
        node = ROOT
        end = start
        for position in range(start, len(text)):
            node = np.intp(edges[edge_slot(edges, shift, node, text[position]), 1])
            if node == NO_NODE:
                break
            if tokens[node] != NO_TOKEN:
                out[n_tokens] = tokens[node]
                end = position + 1
        if end == start:
            break
        n_tokens += 1
        start = end
    return n_tokens, start


class Trie:
    """A vocabulary, ready for `longest_match`."""

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        """Builds the trie; raises ValueError for a vocabulary that its keys cannot number."""
        texts = np.frombuffer(b"".join(vocabulary), np.uint8)
        ends = np.cumsum(np.fromiter(map(len, vocabulary), np.int64, len(vocabulary)))
        if len(texts) >= MAX_NODES:
            raise ValueError(f"a trie holds less than {MAX_NODES:,} bytes of text")
        # There are at most as many nodes as bytes: four slots of five stay the most ever taken.
        slot_bits = (len(texts) * 5 // 4 + 1).bit_length()
        self.shift = WORD_BITS - slot_bits
        self.edges = np.zeros((1 << slot_bits, 2), np.uint32)
        self.tokens = np.empty(len(texts) + 1, np.int32)
        n_nodes = build_trie(texts, ends, self.shift, self.edges, self.tokens)
        self.tokens = self.tokens[:n_nodes].copy()

    def match(self, text: bytes) -> tuple[list[int], int]:
        """The tokens of `text`, and where they end: at its end unless nothing matches there."""
        out = np.empty(len(text), np.int32)
        n_tokens, end = longest_match(
            np.frombuffer(text, np.uint8), self.shift, self.edges, self.tokens, out
        )
        return out[:n_tokens].tolist(), end
