"""How tokens pass through each version of RWKV, one file each; kernels are shared."""

from rwkv_edge.runtime.arch import (
    rwkv4,
    rwkv4_weights,
    rwkv5,
    rwkv5_weights,
    rwkv6,
    rwkv6_weights,
    rwkv7,
    rwkv7_weights,
    rwkv7a,
    rwkv7a_weights,
)
from rwkv_edge.runtime.arch.compiled import CompiledArchitecture

_RWKV5 = CompiledArchitecture(
    load_weights=rwkv5_weights.load_weights,
    new_scratch=rwkv5_weights.new_scratch,
    forward=rwkv5.forward,
)
# By version. Explicit, because a frozen desktop build misses imports made from strings.
COMPILED: dict[str, CompiledArchitecture] = {
    "4": CompiledArchitecture(
        load_weights=rwkv4_weights.load_weights,
        new_scratch=rwkv4_weights.new_scratch,
        forward=rwkv4.forward,
    ),
    "5.0": _RWKV5,
    "5.1": _RWKV5,
    "5.2": _RWKV5,
    "6": CompiledArchitecture(
        load_weights=rwkv6_weights.load_weights,
        new_scratch=rwkv6_weights.new_scratch,
        forward=rwkv6.forward,
    ),
    "7": CompiledArchitecture(
        load_weights=rwkv7_weights.load_weights,
        new_scratch=rwkv7_weights.new_scratch,
        forward=rwkv7.forward,
        transposed=frozenset({"wkv"}),
    ),
    "7a": CompiledArchitecture(
        load_weights=rwkv7a_weights.load_weights,
        new_scratch=rwkv7a_weights.new_scratch,
        forward=rwkv7a.forward,
        no_weights=rwkv7a_weights.no_weights,
        transposed=frozenset({"wkv"}),
    ),
}

__all__ = ["COMPILED", "CompiledArchitecture"]
