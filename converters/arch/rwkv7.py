"""RWKV-7 checkpoints, as RWKV-LM saves them, to the tensors of `rwkv_edge.arch.rwkv7`."""

from rwkv_edge.arch.rwkv7 import LERPS, Rwkv7Hyperparameters, as_rwkv7
from rwkv_edge.converters.arch.base import (
    OUTSIDE_BLOCKS,
    AsStored,
    CheckpointReader,
    Padding,
    Shape,
    Shapes,
    Source,
    Stacked,
    Transposed,
    count_layers,
    require_shape,
    whole_checkpoint,
)
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters

# Every published RWKV-7; used where r_k is flat and does not say.
DEFAULT_HEAD_SIZE = 64

# GGUF name within a layer: name within a block of the checkpoint.
RENAMED = {
    "attn_norm.weight": "ln1.weight",
    "attn_norm.bias": "ln1.bias",
    "attn_norm_2.weight": "ln2.weight",
    "attn_norm_2.bias": "ln2.bias",
    "time_mix_w0.weight": "att.w0",
    "time_mix_a0.weight": "att.a0",
    "time_mix_v0.weight": "att.v0",
    "time_mix_k_k.weight": "att.k_k",
    "time_mix_k_a.weight": "att.k_a",
    "time_mix_r_k.weight": "att.r_k",
    "time_mix_receptance.weight": "att.receptance.weight",
    "time_mix_key.weight": "att.key.weight",
    "time_mix_value.weight": "att.value.weight",
    "time_mix_output.weight": "att.output.weight",
    "time_mix_ln.weight": "att.ln_x.weight",
    "time_mix_ln.bias": "att.ln_x.bias",
    "channel_mix_lerp_k.weight": "ffn.x_k",
    "channel_mix_key.weight": "ffn.key.weight",
    "channel_mix_value.weight": "ffn.value.weight",
}
LOW_RANK = ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")
# Layer 0 defines v_first, so it mixes nothing into its value: v0, v1, v2 there are padding.
LAYER_0_PADDING = {"v0": "a0", "v1": "a1", "v2": "a2"}


class Rwkv7Reader(CheckpointReader):
    """Recognised by `att.r_k` and `att.k_k`."""

    def hyperparameters(self, shapes: Shapes) -> Rwkv7Hyperparameters:
        """Read the model's shape off its tensors; raises FormatError."""
        n_vocab, n_embd = require_shape(shapes, "emb.weight", 2)
        n_layer = count_layers(shapes)

        def rank(letter: str, layer: int = 0) -> int:
            return require_shape(shapes, f"blocks.{layer}.att.{letter}1", 2)[1]

        # In a single layer the value rank has no meaning; the file still states one.
        value_rank = rank("v", layer=1) if n_layer > 1 else rank("a")
        return Rwkv7Hyperparameters(
            version="7",
            n_layer=n_layer,
            n_embd=n_embd,
            n_ffn=require_shape(shapes, "blocks.0.ffn.key.weight", 2)[0],
            n_vocab=n_vocab,
            head_size=head_size_of(shapes, n_embd),
            decay_rank=rank("w"),
            iclr_rank=rank("a"),
            value_rank=value_rank,
            gate_rank=rank("g"),
        )

    def required(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """Every tensor of the checkpoint and its shape."""
        hp = as_rwkv7(hyperparameters)
        C, F = hp.n_embd, hp.n_ffn
        vectors = ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "att.ln_x.weight",
                   "att.ln_x.bias", "att.w0", "att.a0", "att.v0", "att.k_k", "att.k_a", "ffn.x_k",
                   *(f"att.x_{letter}" for letter in LERPS))  # fmt: skip
        ranks = {"w": hp.decay_rank, "a": hp.iclr_rank, "v": hp.value_rank, "g": hp.gate_rank}
        block: dict[str, Shape] = dict.fromkeys(vectors, (C,))
        for letter, rank in ranks.items():
            block[f"att.{letter}1"] = (C, rank)
            block[f"att.{letter}2"] = (rank, C)
        for name in ("receptance", "key", "value", "output"):
            block[f"att.{name}.weight"] = (C, C)
        block["ffn.key.weight"] = (F, C)
        block["ffn.value.weight"] = (C, F)
        block["att.r_k"] = (hp.n_head, hp.head_size)
        shapes = whole_checkpoint(hp, block)
        return {key: shape for key, shape in shapes.items() if key not in self.ignored(hp)}

    def may_be_flat(self, key: str) -> bool:
        """r_k, which is used flat anyway."""
        return key.endswith("att.r_k")

    def ignored(self, hyperparameters: Hyperparameters) -> frozenset[str]:
        """Layer 0's value mix: some training runs save it, nothing reads it."""
        del hyperparameters
        return frozenset(f"blocks.0.att.{name}" for name in LAYER_0_PADDING)

    def sources(self, hyperparameters: Hyperparameters) -> dict[str, Source]:
        """Where each GGUF tensor comes from, by its GGUF name."""
        hp = as_rwkv7(hyperparameters)
        found = dict(OUTSIDE_BLOCKS)
        for i in range(hp.n_layer):
            att = f"blocks.{i}.att."
            for gguf_name, name in RENAMED.items():
                found[f"blk.{i}.{gguf_name}"] = AsStored(f"blocks.{i}.{name}")
            for name in LOW_RANK:
                found[f"blk.{i}.time_mix_{name}.weight"] = Transposed(att + name)
            lerps = tuple(f"{att}x_{letter}" for letter in LERPS)
            found[f"blk.{i}.time_mix_lerp_fused.weight"] = Stacked(lerps)
        like_shapes = {
            "a0": (hp.n_embd,),
            "a1": (hp.iclr_rank, hp.n_embd),
            "a2": (hp.n_embd, hp.iclr_rank),
        }
        for name, like in LAYER_0_PADDING.items():
            found[f"blk.0.time_mix_{name}.weight"] = Padding(
                found[f"blk.0.time_mix_{like}.weight"], like_shapes[like]
            )
        return found


def head_size_of(shapes: Shapes, n_embd: int) -> int:
    """r_k is (heads, head size), or flat in checkpoints that something has squeezed."""
    r_k = shapes.get("blocks.0.att.r_k")
    if r_k is None:
        raise FormatError("blocks.0.att.r_k is missing; the file is incomplete")
    head_size = r_k[1] if len(r_k) == 2 else DEFAULT_HEAD_SIZE
    if head_size < 1 or n_embd % head_size:
        raise FormatError(
            f"blocks.0.att.r_k is {list(r_k)}: heads of {head_size} do not divide the "
            f"embedding of {n_embd}"
        )
    return head_size
