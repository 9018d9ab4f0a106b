"""A Transformer in llama.cpp: contexts that grow, against attention in plain numpy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from rwkv_edge.converters.synthetic_transformer import (
    RMS_NORM_EPS,
    TransformerShape,
    write_transformer,
)
from rwkv_edge.errors import FormatError, InputError
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.backends.llama_transformer import LlamaTransformer

TOKENS = np.random.default_rng(0).integers(0, 256, 600).astype(np.int32)
ROPE_BASE = 10_000.0
Array = npt.NDArray[np.float64]


@pytest.fixture(autouse=True)
def with_llama() -> None:
    pytest.importorskip("llama_cpp")


@pytest.fixture
def made(f32_gguf: Path, tmp_path: Path) -> tuple[Path, TransformerShape]:
    path = tmp_path / "t.gguf"
    return path, write_transformer(path, ModelFile(f32_gguf))


@pytest.fixture
def transformer(made: tuple[Path, TransformerShape]) -> Iterator[LlamaTransformer]:
    loaded = LlamaTransformer(made[0], made[1].n_vocab, threads=1)
    yield loaded
    loaded.close()


def llama_in_numpy(path: Path, shape: TransformerShape, tokens: Any) -> Array:
    """The last logits, all positions at once in float64. Source: arXiv 2302.13971, 2305.13245."""
    w = {t.name: np.array(t.data, np.float64) for t in gguf.GGUFReader(path).tensors}
    T, N = len(tokens), shape.head_size

    def norm(x: Array, name: str) -> Array:
        scale = np.sqrt((x**2).mean(axis=-1, keepdims=True) + RMS_NORM_EPS)
        return x / scale * w[f"{name}.weight"]

    def rotated(x: Array) -> Array:
        angle = np.arange(T)[:, None] * ROPE_BASE ** (-np.arange(0, N, 2) / N)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)

    x = w["token_embd.weight"][tokens]
    future = np.triu(np.full((T, T), -np.inf), 1)
    for i in range(shape.n_layer):

        def p(name: str, i: int = i) -> Array:
            return w[f"blk.{i}.{name}.weight"]

        normed = norm(x, f"blk.{i}.attn_norm")
        q = rotated((normed @ p("attn_q").T).reshape(T, shape.n_head, N))
        k = rotated((normed @ p("attn_k").T).reshape(T, shape.n_head_kv, N))
        v = (normed @ p("attn_v").T).reshape(T, shape.n_head_kv, N)
        shared = shape.n_head // shape.n_head_kv
        k, v = k.repeat(shared, axis=1), v.repeat(shared, axis=1)
        scores = np.einsum("thn,shn->hts", q, k) / np.sqrt(N) + future
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hts,shn->thn", weights, v).reshape(T, -1) @ p("attn_output").T
        normed = norm(x, f"blk.{i}.ffn_norm")
        gate = normed @ p("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (normed @ p("ffn_up").T)) @ p("ffn_down").T
    last: Array = w["output.weight"] @ norm(x[-1], "output_norm")
    return last


def test_logits_are_those_of_attention_over_all_tokens(
    transformer: LlamaTransformer, made: tuple[Path, TransformerShape]
) -> None:
    transformer.make_room(600)
    found = transformer.forward(TOKENS)
    wanted = llama_in_numpy(*made, TOKENS)
    # Keys and values are kept in float16.
    assert np.abs(found - wanted).max() < 5e-3 * np.ptp(wanted)


def test_a_context_that_grows_forgets_nothing(
    transformer: LlamaTransformer, made: tuple[Path, TransformerShape]
) -> None:
    for end in (1, 40, 300, 560, 600):
        transformer.make_room(end)
        found = transformer.forward(TOKENS[transformer.n_tokens : end])
        assert transformer.n_tokens == end
    wanted = llama_in_numpy(*made, TOKENS)
    assert np.abs(found - wanted).max() < 5e-3 * np.ptp(wanted)


def test_without_room_it_says_so(transformer: LlamaTransformer) -> None:
    with pytest.raises(InputError, match="1 tokens do not fit in a context for 0"):
        transformer.forward(TOKENS[:1])
    transformer.make_room(300)
    transformer.forward(TOKENS[:200])
    with pytest.raises(InputError, match="301 tokens do not fit in a context for 300"):
        transformer.forward(TOKENS[:101])


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.gguf").write_bytes(b"GGUF")
    with pytest.raises(FormatError, match=r"llama\.cpp could not load it"):
        LlamaTransformer(tmp_path / "t.gguf", 256)


def test_closing_twice_is_harmless(made: tuple[Path, TransformerShape]) -> None:
    loaded = LlamaTransformer(made[0], made[1].n_vocab, threads=1)
    loaded.make_room(10)
    loaded.close()
    loaded.close()
