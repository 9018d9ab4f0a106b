"""RWKV-5 in the names of other projects."""

from rwkv_edge.converters.names import huggingface, web_rwkv
from rwkv_edge.converters.names.base import Naming, View, renamed


def is_huggingface(view: View) -> bool:
    """Norms of heads, and lerps that have no low-rank part."""
    within = view.within
    is_later = "attention.time_maa_x" in within
    return huggingface.is_named_so(view) and "attention.ln_x.weight" in within and not is_later


def is_web_rwkv(view: View) -> bool:
    """`time_first` of each channel.

    RWKV-LM's files hold a logarithm under that name, but for each head alone.
    """
    firsts = view.shapes_ending_in(".att.time_first")
    return (
        web_rwkv.may_be(view)
        and "att.ln_x.weight" in view.within
        and "att.time_decay_w1" not in view.within
        and bool(firsts)
        and all(len(shape) == 2 and shape[1] > 1 for shape in firsts)
    )


# The code comes with the weights of RWKV/rwkv-5-world and others, `modeling_rwkv5.py`.
HUGGINGFACE = Naming(
    "an RWKV-5 in Hugging Face's names",
    huggingface.OUTSIDE,
    huggingface.BLOCK,
    huggingface.within_blocks(
        huggingface.GROUP_NORM,
        huggingface.GATE,
        huggingface.LERPS,
        {
            "attention.time_decay": "att.time_decay",
            "attention.time_first": "att.time_first",
            "attention.time_faaaa": "att.time_faaaa",
        },
    ),
    is_huggingface,
)
WEB_RWKV = Naming(
    "an RWKV-5 of web-rwkv",
    web_rwkv.OUTSIDE,
    web_rwkv.BLOCK,
    renamed({"att.time_first": "att.time_faaaa"}),
    is_web_rwkv,
    as_is=True,
)
