"""RWKV-6 in the names of other projects."""

from dataclasses import dataclass

from rwkv_edge.arch.rwkv6 import LERPS
from rwkv_edge.converters.checkpoints.tensors import DerivedTensor, StoredTensor, Tensor
from rwkv_edge.converters.names import fla, huggingface, web_rwkv
from rwkv_edge.converters.names.base import (
    Facing,
    Naming,
    Rows,
    Target,
    Turned,
    View,
    renamed,
    require,
)

# In flash-linear-attention the five lerps stand in this order, here in that of LERPS.
FLA_LERPS = ("r", "w", "k", "v", "g")


@dataclass(frozen=True)
class FlaMix1(Target):
    """The first low-rank matrix of the lerps: (ranks of all five, n_embd), in FLA_LERPS' order."""

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """`time_maa_w1`: (n_embd, ranks of all five)."""
        rank = rank_of_lerps(tensor, 0)
        starts = (FLA_LERPS.index(letter) * rank for letter in LERPS)
        parts = tuple(tensor.part(0, start, start + rank).transposed() for start in starts)
        return {"att.time_maa_w1": DerivedTensor(parts, axis=1)}


@dataclass(frozen=True)
class FlaMix2(Target):
    """The second: (n_embd, ranks of all five), in FLA_LERPS' order."""

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """`time_maa_w2`: (five, rank, n_embd)."""
        rank = rank_of_lerps(tensor, 1)
        n_rows = tensor.shape[0]
        lerps = tensor.reshaped((1, n_rows, tensor.shape[1]))
        starts = (FLA_LERPS.index(letter) * rank for letter in LERPS)
        parts = tuple(lerps.part(2, start, start + rank).transposed() for start in starts)
        return {"att.time_maa_w2": DerivedTensor(parts, axis=0)}


def rank_of_lerps(tensor: StoredTensor, axis: int) -> int:
    """The rank of one of five that stand side by side; raises FormatError."""
    is_fit = len(tensor.shape) == 2 and tensor.is_contiguous
    require(
        is_fit and tensor.shape[axis] >= len(LERPS) and tensor.shape[axis] % len(LERPS) == 0,
        tensor,
        f"a matrix of a multiple of {len(LERPS)} {'columns' if axis else 'rows'}",
    )
    return tensor.shape[axis] // len(LERPS)


def is_huggingface(view: View) -> bool:
    """Lerps with a low-rank part."""
    return huggingface.is_named_so(view) and "attention.time_maa_x" in view.within


def is_fla(view: View) -> bool:
    """The low-rank matrices of the lerps."""
    return "attn.x_proj.0.linear.weight" in view.within


def is_web_rwkv(view: View) -> bool:
    """A low-rank part of the lerps, under the name that replaces `time_maa`."""
    return web_rwkv.may_be(view) and "att.time_mix_w1" in view.within


# The code comes with the weights of RWKV/v6-Finch-1B6-HF and others, `modeling_rwkv6.py`.
HUGGINGFACE = Naming(
    "an RWKV-6 in Hugging Face's names",
    huggingface.OUTSIDE,
    huggingface.BLOCK,
    huggingface.within_blocks(
        huggingface.GROUP_NORM,
        huggingface.GATE,
        {
            f"attention.{name}": f"att.{name}"
            for name in (
                "time_maa_x",
                *(f"time_maa_{letter}" for letter in LERPS),
                "time_maa_w1",
                "time_maa_w2",
                "time_decay",
                "time_decay_w1",
                "time_decay_w2",
                "time_faaaa",
            )
        },
        {f"feed_forward.time_maa_{letter}": f"ffn.time_maa_{letter}" for letter in "kr"},
    ),
    is_huggingface,
)
FLA = Naming(
    "an RWKV-6 of flash-linear-attention",
    fla.OUTSIDE,
    fla.BLOCK,
    renamed(
        fla.NORMS
        | {
            "attn.x_proj.0.mu": "att.time_maa_x",
            "attn.bonus": "att.time_faaaa",
            "attn.r_proj.linear.weight": "att.receptance.weight",
            "attn.k_proj.linear.weight": "att.key.weight",
            "attn.v_proj.linear.weight": "att.value.weight",
            "attn.g_proj.linear.weight": "att.gate.weight",
            "attn.o_proj.weight": "att.output.weight",
            "attn.w_proj.linear.lora.2.bias": "att.time_decay",
            "ffn.key.linear.weight": "ffn.key.weight",
            "ffn.key.mu": "ffn.time_maa_k",
            "ffn.receptance.linear.weight": "ffn.receptance.weight",
            "ffn.receptance.mu": "ffn.time_maa_r",
            "ffn.value.weight": "ffn.value.weight",
        }
    )
    | {
        "attn.x_proj.0.linear.weight": FlaMix1(),
        "attn.x_proj.2.weight": FlaMix2(),
        "attn.x_bias": Rows(tuple(f"att.time_maa_{letter}" for letter in FLA_LERPS)),
        "attn.w_proj.linear.lora.0.weight": Turned("att.time_decay_w1"),
        "attn.w_proj.linear.lora.2.weight": Turned("att.time_decay_w2"),
    },
    is_fla,
    notes=(
        "flash-linear-attention adds 1e-5 to the variance of a head where RWKV-6 adds 64e-5: a "
        "model that it trained itself will differ a little here",
    ),
)
WEB_RWKV = Naming(
    "an RWKV-6 of web-rwkv",
    web_rwkv.OUTSIDE,
    web_rwkv.BLOCK,
    renamed(
        {
            "att.time_first": "att.time_faaaa",
            "att.time_mix_x": "att.time_maa_x",
            **{f"att.time_mix_{letter}": f"att.time_maa_{letter}" for letter in LERPS},
            **{f"ffn.time_mix_{letter}": f"ffn.time_maa_{letter}" for letter in "kr"},
        }
    )
    | {
        "att.time_mix_w1": Facing("att.time_maa_w1", -2),
        "att.time_mix_w2": Facing("att.time_maa_w2", -1),
        "att.time_decay_w1": Facing("att.time_decay_w1", -2),
        "att.time_decay_w2": Facing("att.time_decay_w2", -1),
    },
    is_web_rwkv,
    as_is=True,
)
