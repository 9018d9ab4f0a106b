"""What the models of all versions in the `transformers` library share: RWKV-4, and 5 and 6 of the
code that came with their weights.
"""

from rwkv_edge.converters.names.base import Target, View, renamed

OUTSIDE = {
    "rwkv.embeddings.weight": "emb.weight",
    "rwkv.ln_out.weight": "ln_out.weight",
    "rwkv.ln_out.bias": "ln_out.bias",
    "head.weight": "head.weight",
}
BLOCK = "rwkv.blocks."
NORMS = {
    f"{foreign}.{end}": f"{own}.{end}"
    for foreign, own in (("pre_ln", "ln0"), ("ln1", "ln1"), ("ln2", "ln2"))
    for end in ("weight", "bias")
}
MATRICES = {
    "attention.key.weight": "att.key.weight",
    "attention.value.weight": "att.value.weight",
    "attention.receptance.weight": "att.receptance.weight",
    "attention.output.weight": "att.output.weight",
    "feed_forward.key.weight": "ffn.key.weight",
    "feed_forward.value.weight": "ffn.value.weight",
    "feed_forward.receptance.weight": "ffn.receptance.weight",
}
# Since RWKV-5.
GROUP_NORM = {
    "attention.ln_x.weight": "att.ln_x.weight",
    "attention.ln_x.bias": "att.ln_x.bias",
}
GATE = {"attention.gate.weight": "att.gate.weight"}
# Lerps of RWKV-4 and 5, which have names where RWKV-LM has letters.
LERPS = {
    f"{part}.time_mix_{word}": f"{own}.time_mix_{word[0]}"
    for part, own in (("attention", "att"), ("feed_forward", "ffn"))
    for word in ("key", "value", "receptance", "gate")
}


def within_blocks(*tables: dict[str, str]) -> dict[str, Target]:
    """What all versions have, and more."""
    names = NORMS | MATRICES
    for table in tables:
        names |= table
    return renamed(names)


def is_named_so(view: View) -> bool:
    """Are the blocks called as `transformers` calls them?"""
    return any(name.startswith(BLOCK) for name in view.names)
