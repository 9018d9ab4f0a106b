"""RWKV-4 in the names of other projects."""

from rwkv_edge.converters.names import huggingface
from rwkv_edge.converters.names.base import Naming, View


def is_huggingface(view: View) -> bool:
    """`transformers` names, and none that came later."""
    later = {"attention.ln_x.weight", "attention.time_maa_x"}
    return huggingface.is_named_so(view) and not view.within & later


# Source: transformers/models/rwkv/modeling_rwkv.py.
HUGGINGFACE = Naming(
    "an RWKV-4 of Hugging Face's transformers",
    huggingface.OUTSIDE,
    huggingface.BLOCK,
    huggingface.within_blocks(
        huggingface.LERPS,
        {
            "attention.time_decay": "att.time_decay",
            "attention.time_first": "att.time_first",
        },
    ),
    is_huggingface,
)
