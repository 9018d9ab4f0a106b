"""RWKV-7 in the names of other projects."""

from rwkv_edge.arch.rwkv7 import LERPS
from rwkv_edge.converters.names import fla, web_rwkv
from rwkv_edge.converters.names.base import Facing, Naming, Rows, Target, Turned, View, renamed

# Low-rank parts: decay, rate, value mix, gate.
LOW_RANK = ("w", "a", "v", "g")
FLA_MATRICES = {
    "r_proj": "receptance",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
}
VECTORS = ("k_k", "k_a", "r_k", *(f"x_{letter}" for letter in LERPS))
FFN = {
    "ffn.x_k": "ffn.x_k",
    "ffn.key.weight": "ffn.key.weight",
    "ffn.value.weight": "ffn.value.weight",
}


def is_fla(view: View) -> bool:
    """The low-rank part of the decay."""
    return "attn.w_lora.lora.0.weight" in view.within


def is_huggingface(view: View) -> bool:
    """`k_k` in blocks of another name."""
    return "attention.k_k" in view.within


def is_web_rwkv(view: View) -> bool:
    """RWKV-LM's own names, but a low-rank matrix that begins with its rank."""
    embedding = view.shape("emb.weight")
    if not web_rwkv.may_be(view) or "att.k_k" not in view.within or len(embedding) != 2:
        return False
    n_embd = embedding[1]
    return any(
        len(shape) == 2 and shape[1] == n_embd != shape[0]
        for letter in LOW_RANK
        for shape in view.shapes_ending_in(f".att.{letter}1")
    )


def fla_low_rank() -> dict[str, Target]:
    """letter0 + letter2 f(letter1 x), as two linear layers, the second with a bias."""
    found: dict[str, Target] = {}
    for letter in LOW_RANK:
        lora = f"attn.{letter}_lora.lora"
        found[f"{lora}.0.weight"] = Turned(f"att.{letter}1")
        found[f"{lora}.2.weight"] = Turned(f"att.{letter}2")
        if letter != "g":
            found |= renamed({f"{lora}.2.bias": f"att.{letter}0"})
    return found


# Its older files hold the six lerps in one tensor, x_x.
FLA = Naming(
    "an RWKV-7 of flash-linear-attention",
    fla.OUTSIDE,
    fla.BLOCK,
    renamed(
        fla.NORMS
        | FFN
        | {f"attn.{name}": f"att.{name}" for name in VECTORS}
        | {f"attn.{old}.weight": f"att.{new}.weight" for old, new in FLA_MATRICES.items()}
    )
    | {"attn.x_x": Rows(tuple(f"att.x_{letter}" for letter in LERPS))}
    | fla_low_rank(),
    is_fla,
)
# RWKV-LM's numbers as they are, in longer words. Source: gguf-py's tensor_mapping.py.
HUGGINGFACE = Naming(
    "an RWKV-7 in Hugging Face's names",
    {
        "embeddings.weight": "emb.weight",
        "pre_ln.weight": "blocks.0.ln0.weight",
        "pre_ln.bias": "blocks.0.ln0.bias",
        "ln_out.weight": "ln_out.weight",
        "ln_out.bias": "ln_out.bias",
        "head.weight": "head.weight",
        "lm_head.weight": "head.weight",
    },
    "layers.",
    renamed(
        {f"ln{i}.{end}": f"ln{i}.{end}" for i in (1, 2) for end in ("weight", "bias")}
        | {f"attention.ln_x.{end}": f"att.ln_x.{end}" for end in ("weight", "bias")}
        | {f"attention.{name}": f"att.{name}" for name in VECTORS}
        | {
            f"attention.{a}{i}": f"att.{a}{i}"
            for a in LOW_RANK
            for i in range(3)
            if (a, i) != ("g", 0)
        }
        | {f"attention.{name}.weight": f"att.{name}.weight" for name in FLA_MATRICES.values()}
        | {f"feed_forward.{name[4:]}": name for name in FFN}
    ),
    is_huggingface,
)
WEB_RWKV = Naming(
    "an RWKV-7 of web-rwkv",
    web_rwkv.OUTSIDE,
    web_rwkv.BLOCK,
    {f"att.{letter}1": Facing(f"att.{letter}1", -2) for letter in LOW_RANK}
    | {f"att.{letter}2": Facing(f"att.{letter}2", -1) for letter in LOW_RANK},
    is_web_rwkv,
    as_is=True,
)
