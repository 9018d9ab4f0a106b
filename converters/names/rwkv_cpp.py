"""What rwkv.cpp's files hold otherwise than RWKV-LM's: names are the same, some numbers are not.

Its converter turns low-rank matrices, applies exponentials, and adds dimensions of one.
Source: rwkv.cpp, python/convert_pytorch_to_ggml.py, of 2023 to 2025.
"""

from dataclasses import dataclass

import numpy as np

from rwkv_edge.arch.rwkv7 import LERPS
from rwkv_edge.converters.checkpoints.rwkv_cpp import CONTAINER
from rwkv_edge.converters.checkpoints.tensors import StoredTensor, Tensor
from rwkv_edge.converters.names.base import (
    Computed,
    Flat,
    Naming,
    Renamed,
    Rows,
    Target,
    Turned,
    View,
)
from rwkv_edge.quant import Float32Array

OUTSIDE = {name: name for name in ("emb.weight", "ln_out.weight", "ln_out.bias", "head.weight")}
BLOCK = "blocks."
# exp(-exp(x)) is exactly 1 in float32 for the first, exactly 0 for the second.
NO_DECAY, ALL_DECAY = -20.0, 5.0


@dataclass(frozen=True)
class WithoutLast(Target):
    """A tensor to which a last dimension of one was added."""

    name: str

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """The tensor without it, if it is there."""
        if len(tensor.shape) < 3 or tensor.shape[-1] != 1 or not tensor.is_contiguous:
            return {self.name: tensor}
        return {self.name: tensor.reshaped(tensor.shape[:-1])}


def log_of_negative(w: Float32Array) -> Float32Array:
    """What w = -exp(time_decay) was made from."""
    # What is no such number becomes NaN, which is refused where it is encoded.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(-w), np.float32)


def log_of_log(decay: Float32Array) -> Float32Array:
    """What decay = exp(-exp(time_decay)) was made from, as far as float32 can tell."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(-np.log(decay.astype(np.float64)))
    found[decay == 1] = NO_DECAY
    found[decay == 0] = ALL_DECAY
    return found.astype(np.float32)


def version_of(view: View) -> str:
    """The version by the names, empty for other files than rwkv.cpp's."""
    if view.directory.container != CONTAINER:
        return ""
    if "att.x_rwkvag" in view.within:
        return "7"
    if "att.time_maa_x" in view.within:
        return "6"
    return "5" if "att.ln_x.weight" in view.within else "4"


RWKV4 = Naming(
    "an RWKV-4 of rwkv.cpp",
    OUTSIDE,
    BLOCK,
    {"att.time_decay": Computed("att.time_decay", log_of_negative)},
    lambda view: version_of(view) == "4",
    as_is=True,
)
RWKV5 = Naming(
    "an RWKV-5 of rwkv.cpp",
    OUTSIDE,
    BLOCK,
    {
        "att.time_decay": Computed("att.time_decay", log_of_log),
        # Stored as it multiplies, which RWKV-LM calls time_faaaa.
        "att.time_first": Renamed("att.time_faaaa"),
    },
    lambda view: version_of(view) == "5",
    as_is=True,
)
RWKV6 = Naming(
    "an RWKV-6 of rwkv.cpp",
    OUTSIDE,
    BLOCK,
    {
        "att.time_faaaa": WithoutLast("att.time_faaaa"),
        "att.time_decay": Flat("att.time_decay"),
        **{
            f"att.{name}": Turned(f"att.{name}")
            for name in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")
        },
    },
    lambda view: version_of(view) == "6",
    as_is=True,
)
RWKV7 = Naming(
    "an RWKV-7 of rwkv.cpp",
    OUTSIDE,
    BLOCK,
    {
        # In the order in which RWKV-LM saves them.
        "att.x_rwkvag": Rows(tuple(f"att.x_{letter}" for letter in LERPS)),
        **{f"att.{a}{i}": Turned(f"att.{a}{i}") for a in "wavg" for i in (1, 2)},
    },
    lambda view: version_of(view) == "7",
    as_is=True,
)
