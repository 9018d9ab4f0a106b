"""Random RWKV-5 checkpoints."""

from collections.abc import Sequence

from rwkv_edge.arch.rwkv5 import is_gated
from rwkv_edge.converters.arch.rwkv5 import BY_CHANNEL, FIRST, LOG_FIRST, Rwkv5Reader
from rwkv_edge.converters.checkpoints.base import Shape
from rwkv_edge.converters.synthetic.base import (
    CHANNEL_MIX_BIAS,
    Spread,
    SyntheticVersion,
    key_mean,
)
from rwkv_edge.hyperparameters import Hyperparameters

# RWKV-LM makes the channel mix of a model with a gate so many times as wide as the embedding, in
# steps; without one, four times.
FFN_FACTOR = 3.5
FFN_STEP = 32


class SyntheticRwkv5(SyntheticVersion):
    """RWKV-5 of any shape. version: "5.0", "5.1" or "5.2"."""

    def __init__(self, version: str) -> None:
        self.version = version

    def hyperparameters(
        self,
        n_layer: int,
        n_embd: int,
        *,
        n_ffn: int | None,
        n_vocab: int,
        head_size: int,
        ranks: Sequence[int] | None,
    ) -> Hyperparameters:
        """The shape of a model; it has no ranks."""
        del ranks
        hp = Hyperparameters(self.version, n_layer, n_embd, n_ffn or 4 * n_embd, n_vocab, head_size)
        if n_ffn is None and is_gated(hp):
            narrower = int(FFN_FACTOR * n_embd) // FFN_STEP * FFN_STEP
            return Hyperparameters(self.version, n_layer, n_embd, narrower, n_vocab, head_size)
        return hp

    def shapes(self, hyperparameters: Hyperparameters, unused: bool = False) -> dict[str, Shape]:
        """Every tensor as RWKV-LM saves it, where lerps have two leading ones."""
        del unused  # nothing is saved that nothing reads
        required = Rwkv5Reader(self.version).required(hyperparameters)
        first = FIRST if self.version in BY_CHANNEL else LOG_FIRST
        return {
            name.replace(FIRST, first): (1, 1, *shape) if "time_mix" in name else shape
            for name, shape in required.items()
        }

    def spread(
        self, name: str, shape: Shape, hyperparameters: Hyperparameters, zeros: float
    ) -> Spread:
        """How the numbers of a tensor are spread, by its name within the block."""
        fan_in = shape[-1]
        per_input = fan_in**-0.5
        layer_share = (2 * hyperparameters.n_layer) ** -0.5
        table = {
            "emb.weight": Spread(0, 0.3),
            "head.weight": Spread(0, 2 * per_input),
            "ln2.bias": Spread(CHANNEL_MIX_BIAS, 0.05),
            # The decay exp(-exp(...)) then runs from nearly 1 to 0.4.
            "att.time_decay": Spread(-3.5, 3.5, uniform=True),
            "att.time_faaaa": Spread(0.5, 0.5),
            # Its exponential is what counts.
            "att.time_first": Spread(-0.7, 0.5),
            "att.receptance.weight": Spread(0, 0.5 * per_input),
            "att.key.weight": Spread(0, 0.5 * per_input),
            "att.value.weight": Spread(0, 0.7 * per_input),
            "att.gate.weight": Spread(0, per_input),
            "att.output.weight": Spread(0, 3 * layer_share * per_input),
            "ffn.key.weight": Spread(key_mean(zeros, fan_in), per_input),
            "ffn.receptance.weight": Spread(0, per_input),
            "ffn.value.weight": Spread(0, 8 * layer_share * per_input),
        }
        if name in table:
            return table[name]
        if "time_mix" in name:
            return Spread(0.5, 0.5, uniform=True)
        return Spread(1, 0.1) if name.endswith("weight") else Spread(0, 0.05)
