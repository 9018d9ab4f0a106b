"""A random Transformer of a model's size, as a GGUF that llama.cpp runs: to compare with alone.

Its speed and memory are those of a trained one; what it says is noise.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf
import numpy as np

from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.model_metadata import ModelMetadata
from rwkv_edge.quant import F32, QUANT_FORMATS, Bytes, QuantFormat

ARCHITECTURE = "llama"
# Query heads that share one key and value, where the heads can be dealt out so; as models of today
# do, to keep less of each token.
HEADS_PER_KEY = (4, 3, 2)
RMS_NORM_EPS = 1e-5
# As many tokens as anybody measures.
CONTEXT_LENGTH = 1 << 20
# What is drawn at random; larger matrices repeat it.
RANDOM_ROWS = 256
CACHE_BYTES_PER_NUMBER = 2


@dataclass(frozen=True)
class TransformerShape:
    """Layers with attention and a gated feed-forward net, as in Llama; without biases."""

    n_layer: int
    n_embd: int
    n_ffn: int
    n_vocab: int
    n_head: int
    n_head_kv: int

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.n_embd // self.n_head

    @property
    def cache_bytes_per_token(self) -> int:
        """What it must keep of each token: keys and values of all layers in float16."""
        n_numbers = 2 * self.n_layer * self.n_head_kv * self.head_size
        return n_numbers * CACHE_BYTES_PER_NUMBER

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes as llama.cpp knows them."""
        C, F, K = self.n_embd, self.n_ffn, self.n_head_kv * self.head_size
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (C,), "attn_q": (C, C), "attn_k": (K, C), "attn_v": (K, C),
            "attn_output": (C, C), "ffn_norm": (C,), "ffn_gate": (F, C), "ffn_up": (F, C),
            "ffn_down": (C, F),
        }  # fmt: skip
        blocks = {
            f"blk.{i}.{name}.weight": shape
            for i in range(self.n_layer)
            for name, shape in layer.items()
        }
        ends = {"token_embd.weight": (self.n_vocab, C), "output_norm.weight": (C,)}
        return {**ends, **blocks, "output.weight": (self.n_vocab, C)}

    @property
    def n_parameters(self) -> int:
        """Weights of all tensors."""
        return sum(map(prod, self.tensors().values()))


def shape_like(model: ModelMetadata) -> TransformerShape:
    """The shape with a model's layers, channels and vocabulary, and nearly as many parameters."""
    hp = model.hyperparameters
    shared = next((n for n in HEADS_PER_KEY if hp.n_head % n == 0), 1)

    def with_ffn(n_ffn: int) -> TransformerShape:
        return TransformerShape(
            hp.n_layer, hp.n_embd, n_ffn, hp.n_vocab, hp.n_head, hp.n_head // shared
        )

    wanted = model.n_parameters
    unit = max(QUANT_FORMATS[model.file_type].block_len, 32)
    n_units = (wanted - with_ffn(0).n_parameters) / (3 * hp.n_layer * hp.n_embd * unit)
    return with_ffn(unit * max(1, round(n_units)))


def write_transformer(path: Path, model: ModelMetadata) -> TransformerShape:
    """Write one like the model, its matrices in the model's weight type; gives its shape.

    Raises UnsupportedModelError where its rows do not fit that weight type, OSError.
    """
    shape = shape_like(model)
    weight_type = QUANT_FORMATS[model.file_type]
    if shape.n_embd % weight_type.block_len:
        raise UnsupportedModelError(
            f"{model.path}: {shape.n_embd} channels are not whole blocks of {model.file_type}; "
            "no Transformer can be made like it"
        )
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    add_keys(writer, shape)
    formats = {
        name: weight_type if len(dimensions) > 1 else F32
        for name, dimensions in shape.tensors().items()
    }
    for name, dimensions in shape.tensors().items():
        n_bytes = prod(dimensions[:-1]) * formats[name].row_bytes(dimensions[-1])
        raw_type = gguf.GGMLQuantizationType(formats[name].ggml_type)
        writer.add_tensor_info(name, dimensions, np.dtype(np.float32), n_bytes, raw_type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, dimensions in shape.tensors().items():
            writer.write_tensor_data(random_matrix(dimensions, formats[name]))
    finally:
        writer.close()
    return shape


def add_keys(writer: gguf.GGUFWriter, shape: TransformerShape) -> None:
    """Hyperparameters; no vocabulary, as it is given tokens and asked for logits alone."""
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_block_count(shape.n_layer)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ffn)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_layer_norm_rms_eps(RMS_NORM_EPS)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_tokenizer_model("no_vocab")


def random_matrix(shape: tuple[int, ...], quant: type[QuantFormat]) -> Bytes:
    """Its encoded bytes; a vector holds ones, as of a norm."""
    if len(shape) == 1:
        return np.ones(shape, np.float32).view(np.uint8)
    n_rows, n_columns = shape
    random = np.random.default_rng(n_columns)
    rows = random.standard_normal((RANDOM_ROWS, n_columns), np.float32) * n_columns**-0.5
    encoded = quant.encode(rows.astype(np.float32))
    return np.tile(encoded, (-(-n_rows // RANDOM_ROWS), 1))[:n_rows]
