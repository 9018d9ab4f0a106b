"""What one call of a forward kernel is asked."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Batch(NamedTuple):
    """A block of T tokens of S sequences; sequence s is tokens starts[s] to starts[s + 1].

    tokens: (T,) int32; starts: (S + 1,) int64; states: (S,) int64, addresses of float32 states;
    logit_rows: (N,) int64, tokens whose logits are wanted; logits: (N, padded n_vocab), written.
    """

    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    states: npt.NDArray[np.int64]
    logit_rows: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]


def no_tokens() -> Batch:
    """A batch of none, of the same types as any: kernels can be compiled for it."""
    none = np.empty(0, np.int64)
    return Batch(none.astype(np.int32), none, none, none, np.empty((0, 0), np.float32))
