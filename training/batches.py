"""Documents -> one stream of tokens -> shuffled windows to train on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.vocabulary import END_OF_DOCUMENT


def token_stream(parts: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """All documents, END_OF_DOCUMENT before each and after the last."""
    end = np.array([END_OF_DOCUMENT], np.int32)
    return np.concatenate([array for part in parts for array in (end, part)] + [end])


class Batches:
    """Endless epochs: documents in a new order, cut at a new offset, windows shuffled."""

    def __init__(self, parts: list[NDArray[np.int32]], tokens_per_step: int, seed: int) -> None:
        self.parts = parts
        self.tokens_per_step = tokens_per_step
        self.random = np.random.default_rng(seed)
        self.stream = token_stream(parts)
        self.starts: Iterator[int] = iter(())
        self.context = 0

    def next(self, context: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (tokens_per_step / context, context) int64."""
        if context != self.context:
            self.context, self.starts = context, iter(())
        windows: list[NDArray[np.int32]] = []
        while len(windows) < self.tokens_per_step // context:
            start = next(self.starts, None)
            if start is None:
                order = self.random.permutation(len(self.parts))
                self.stream = token_stream([self.parts[index] for index in order])
                offset = int(self.random.integers(context))
                starts = np.arange(offset, self.stream.size - context - 1, context)
                self.starts = iter(self.random.permutation(starts).tolist())
            else:
                windows.append(self.stream[start : start + context + 1])
        batch = torch.from_numpy(np.stack(windows).astype(np.int64))
        return batch[:, :-1], batch[:, 1:]
