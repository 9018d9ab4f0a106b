"""Which version of RWKV a checkpoint holds, by the names of its tensors."""

from collections.abc import Collection

from rwkv_edge.converters.arch.base import Shapes
from rwkv_edge.errors import UnsupportedModelError


def version_of(shapes: Shapes) -> str:
    """The version as its authors count; raises UnsupportedModelError for what is not RWKV."""
    # All names first, and what they decide second: files hold their tensors in any order. Layer 0
    # of some versions lacks tensors that the others have, so every block is looked at.
    names = {
        key.split(".", 2)[2] for key in shapes if key.startswith("blocks.") and key.count(".") > 1
    }
    if "att.r_k" in names or "att.k_k" in names:
        return version_of_rwkv7_family(names)
    if any(name.startswith("att.time_maa") for name in names):
        return "6"
    if "att.time_decay" in names and "att.ln_x.weight" in names:
        if "att.gate.weight" not in names:
            return "5.0"
        decays = [shape for key, shape in shapes.items() if key.endswith(".att.time_decay")]
        by_channel = any(len(shape) > 1 and shape[1] > 1 for shape in decays)
        return "5.2" if by_channel else "5.1"
    if "att.time_decay" in names:
        return "4"
    found = ", ".join(list(shapes)[:3])
    raise UnsupportedModelError(
        f"its tensors are not named as in any RWKV that is known here (found {found}); wanted a "
        "checkpoint that RWKV-LM saved, with emb.weight and blocks.0.att, or one in the names of "
        "Hugging Face, flash-linear-attention or web-rwkv"
    )


def version_of_rwkv7_family(names: Collection[str]) -> str:
    """RWKV-7 and what was built on it."""
    if any(name.startswith("ffn.enn") for name in names):
        return "8"
    if any(name.startswith("qkv.") for name in names):
        hybrid = any(name.startswith(("qkv.kk", "qkv.vv", "qkv.enn", "qkv.emm")) for name in names)
        return "8" if hybrid else "7b"
    if any(name.startswith("ffn.s_emb") for name in names):
        return "7a"
    return "7"
