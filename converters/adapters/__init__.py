"""Adapters and tuned states, as RWKV-PEFT saves them, merged while their base is converted."""

from rwkv_edge.converters.adapters.adapt import Adapted, adapt
from rwkv_edge.converters.adapters.choice import choose_adapters
from rwkv_edge.converters.adapters.files import Adapter, TunedState
from rwkv_edge.converters.adapters.keys import require_no_adapter
from rwkv_edge.converters.adapters.state_file import load_tuned_state

__all__ = [
    "Adapted",
    "Adapter",
    "TunedState",
    "adapt",
    "choose_adapters",
    "load_tuned_state",
    "require_no_adapter",
]
