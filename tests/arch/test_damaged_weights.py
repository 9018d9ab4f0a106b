"""Numbers that are none, in files that are whole otherwise: one error, from every engine."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import FormatError, Model, RwkvEdgeError
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.quant import QUANT_FORMATS

Alter = Callable[..., Path]
BACKENDS = ["numba", "reference"]
# As float16 and as float32 have them.
BAD = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}
# How blocks spell a scale of 16 bits.
HALVES = (np.dtype("<u2"), np.dtype("<f2"))


def refused_at_load(path: Path, name: str) -> None:
    """The engine that looks at weights as it packs them names the tensor in one line."""
    with pytest.raises(FormatError, match=f"tensor {name} .*NaN or infinite") as caught:
        Model.load(path, "numba", threads=1)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def one_error(path: Path, backend: str) -> None:
    """It loads, and says in one line that it gives no numbers; nothing hangs, whoever asks."""
    with Model.load(path, backend, threads=1) as model, np.errstate(all="ignore"):
        for ask in (
            lambda: model.forward([65, 66]),
            lambda: model.forward(list(range(65, 85)), all_logits=True),
            lambda: model.forward_batch([[65], [65, 66]], [model.new_state(), model.new_state()]),
            lambda: model.generate("AB", max_tokens=3),
        ):
            with pytest.raises(RwkvEdgeError, match="its logits are no numbers") as caught:
                ask()
            assert str(caught.value).startswith(f"{path}: ")
            assert str(caught.value).isprintable()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("quant", [name for name, q in QUANT_FORMATS.items() if q.block_len > 1])
def test_a_scale_that_is_no_number_ends_in_one_error(
    altered_gguf: Alter, f32_gguf: Path, quant: str, bad: float, backend: str
) -> None:
    """In a matrix of each format, the head's: every scale of one row, wherever a block has them."""
    block = QUANT_FORMATS[quant].block
    with GgufFile(f32_gguf) as file:
        n_rows, n_columns = file.tensors["output.weight"].shape
    random = np.random.default_rng(3)
    n_blocks = n_columns // QUANT_FORMATS[quant].block_len
    if not n_blocks:
        pytest.skip("rows of this model are shorter than a block")
    raw = random.integers(0, 256, (n_rows, n_blocks, block.itemsize), np.uint8)
    fields: dict[str, Any] = {
        name: kind for name, (kind, *_) in (block.fields or {}).items() if kind in HALVES
    }
    assert fields, f"{quant} has no scale that this test knows"
    records = raw.view(block).reshape(n_rows, n_blocks)
    for name in fields:
        records[name] = np.float16(0.01).view(np.uint16)
        records[name][7] = np.float16(bad).view(np.uint16)
    head = records.view(np.uint8).reshape(n_rows, -1)
    path = altered_gguf(f32_gguf, tensors={"output.weight": (head, quant)})
    if backend == "numba":
        refused_at_load(path, "output.weight")
    else:
        one_error(path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name",
    ["token_embd.weight", "blk.0.attn_norm.weight", "blk.1.time_mix_k_k.weight",
     "output_norm.bias"],
)  # fmt: skip
def test_a_number_that_is_none_ends_in_one_error_wherever_it_stands(
    altered_gguf: Alter, f32_gguf: Path, name: str, backend: str
) -> None:
    with GgufFile(f32_gguf) as file:
        weights = file.tensors[name].decode().copy()
    weights[...] = np.nan
    path = altered_gguf(f32_gguf, tensors={name: (weights, "F32")})
    # The embedding is never read whole: its numbers are met in the logits of a token.
    if backend == "numba" and name != "token_embd.weight":
        refused_at_load(path, name)
    else:
        one_error(path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["time_mix_w0", "time_mix_a0", "time_mix_v0", "channel_mix_key"])
def test_a_number_that_is_none_where_kernels_clamp_gives_an_error_or_numbers(
    altered_gguf: Alter, f32_gguf: Path, name: str, backend: str
) -> None:
    """What goes into an exponential or relu is clamped, and NaN with it."""
    with GgufFile(f32_gguf) as file:
        shape = file.tensors[f"blk.1.{name}.weight"].shape
    tensor = (np.full(shape, np.nan, np.float32), "F32")
    path = altered_gguf(f32_gguf, tensors={f"blk.1.{name}.weight": tensor})
    if backend == "numba":
        refused_at_load(path, f"blk.1.{name}.weight")
        return
    logits = None
    with (
        Model.load(path, backend, threads=1) as model,
        np.errstate(all="ignore"),
        contextlib.suppress(RwkvEdgeError),
    ):
        logits, _ = model.forward([65, 66])
    assert logits is None or np.isfinite(logits).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_finite_weights_that_overflow_end_in_one_error(
    altered_gguf: Alter, f32_gguf: Path, backend: str
) -> None:
    with GgufFile(f32_gguf) as file:
        weights = np.full(file.tensors["output.weight"].shape, 3e38, np.float32)
    one_error(altered_gguf(f32_gguf, tensors={"output.weight": (weights, "F32")}), backend)
