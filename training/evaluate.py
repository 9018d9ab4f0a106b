"""Held-out bits per byte, and samples."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.rwkv7_torch import RWKV7
from training.vocabulary import END_OF_DOCUMENT, Vocabulary
from training.wkv7 import CHUNK


@torch.no_grad()
def held_out_bits(
    model: RWKV7,
    vocabulary: Vocabulary,
    stream: NDArray[np.int32],
    context: int,
    max_windows: int | None = None,
) -> float:
    """Bits per byte of text; every window starts from a zero state, id 0 is not counted."""
    starts = range(0, stream.size - context, context)[:max_windows]
    lengths = torch.tensor([0] + [len(entry) for entry in vocabulary.entries])
    nats, n_bytes = 0.0, 0
    for start in starts:
        window = stream[start : start + context + 1].astype(np.int64)
        tokens = torch.from_numpy(window).unsqueeze(0)
        target = tokens[0, 1:]
        loss = functional.cross_entropy(model(tokens[:, :-1])[0], target, reduction="none")
        nats += float(loss[target != END_OF_DOCUMENT].sum())
        n_bytes += int(lengths[target].sum())
    return nats / math.log(2) / n_bytes


@torch.no_grad()
def sample(model: RWKV7, vocabulary: Vocabulary, prompt: str, n_tokens: int, top_p: float) -> str:
    """The prompt and its continuation at temperature 1; the whole text is recomputed each time."""
    tokens = [END_OF_DOCUMENT, *vocabulary.encode(prompt).tolist()]
    for _ in range(n_tokens):
        padded = functional.pad(torch.tensor([tokens]), (0, -len(tokens) % CHUNK))
        chances = torch.softmax(model(padded)[0, len(tokens) - 1], -1)
        ranked, ids = chances.sort(descending=True)
        ranked[ranked.cumsum(0) - ranked > top_p] = 0.0
        tokens.append(int(ids[torch.multinomial(ranked, 1)]))
        if tokens[-1] == END_OF_DOCUMENT:
            break
    return vocabulary.decode(tokens).decode("utf-8", errors="replace")
