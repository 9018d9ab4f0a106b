"""What web-rwkv's `.st` files share: RWKV-LM's names, some of them replaced, in float16.

Its converters exchange `time_faaaa` for `time_first` and `time_maa` for `time_mix`, and turn
low-rank matrices; which of those, depends on the year. Source: web-rwkv and ai00_server,
`convert_safetensors.py`, and web-rwkv-converter.
"""

from rwkv_edge.converters.names.base import View

CONTAINERS = ("safetensors", "folder")
OUTSIDE = {name: name for name in ("emb.weight", "ln_out.weight", "ln_out.bias", "head.weight")}
BLOCK = "blocks."


def may_be(view: View) -> bool:
    """Is it a safetensors file? web-rwkv writes no other."""
    return view.directory.container in CONTAINERS
