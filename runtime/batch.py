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
