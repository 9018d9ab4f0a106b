"""What RWKV-6 and 7 share in flash-linear-attention. Source: fla/models/rwkv6 and rwkv7."""

# A prefix `model.` is gone when these are looked up.
OUTSIDE = {
    "embeddings.weight": "emb.weight",
    "norm.weight": "ln_out.weight",
    "norm.bias": "ln_out.bias",
    "lm_head.weight": "head.weight",
}
BLOCK = "layers."
NORMS = {
    f"{foreign}.{end}": f"{own}.{end}"
    for foreign, own in (
        ("pre_norm", "ln0"),
        ("attn_norm", "ln1"),
        ("ffn_norm", "ln2"),
        ("attn.g_norm", "att.ln_x"),
    )
    for end in ("weight", "bias")
}
