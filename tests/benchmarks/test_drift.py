"""The recurrence in float64 is RWKV-7's, whatever parts a text comes in."""

from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model

from .drift import BLOCK_TOKENS, Float64Rwkv7, blocks_of, compare

TEXT = b"It was a dark night.\n\nThe rain fell in torrents.\n\nExcept at times." * 10


def test_its_logits_are_those_of_the_reference_backend(f32_gguf: Path) -> None:
    tokens = list(TEXT[:300])
    exact = Float64Rwkv7(f32_gguf)
    for part in (tokens[:1], tokens[1:200], tokens[200:]):
        found = exact.forward(part)
    with Model.load(f32_gguf, "reference") as model:
        wanted, _ = model.forward(tokens)
    # float32 beside float64.
    assert np.abs(found - wanted).max() < 1e-5 * np.ptp(wanted)


def test_rows_end_with_the_last_token(f32_gguf: Path) -> None:
    rows = list(compare(f32_gguf, TEXT, 1500, "numba"))
    assert [row["n_tokens"] for row in rows] == [1024, 1500]
    for row in rows:
        assert 0 < row["median"] <= row["largest"] < 1e-5
        assert row["same_best"] == 1


@pytest.mark.parametrize("n_tokens", [1, 100, 256, 700])
def test_blocks_are_an_endless_text_as_long_as_is_asked_for(
    tiny_model: Model, n_tokens: int
) -> None:
    found = list(blocks_of(tiny_model, TEXT, n_tokens))
    assert sum(map(len, found)) == n_tokens
    assert all(len(block) == BLOCK_TOKENS for block in found[:-1])
