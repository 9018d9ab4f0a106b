"""Random RWKV-6 checkpoints."""

from collections.abc import Sequence

from rwkv_edge.arch.rwkv6 import Rwkv6Hyperparameters
from rwkv_edge.converters.arch.rwkv6 import Rwkv6Reader
from rwkv_edge.converters.checkpoints.base import Shape
from rwkv_edge.converters.synthetic.base import (
    CHANNEL_MIX_BIAS,
    Spread,
    SyntheticVersion,
    key_mean,
)
from rwkv_edge.hyperparameters import Hyperparameters

# RWKV-LM doubles the ranks from this width on.
WIDE = 4096
# RWKV-LM makes the channel mix so many times as wide as the embedding, in steps.
FFN_FACTOR = 3.5
FFN_STEP = 32


class SyntheticRwkv6(SyntheticVersion):
    """RWKV-6 of any shape."""

    rank_names = ("mix", "decay")

    def hyperparameters(
        self,
        n_layer: int,
        n_embd: int,
        *,
        n_ffn: int | None,
        n_vocab: int,
        head_size: int,
        ranks: Sequence[int] | None,
    ) -> Rwkv6Hyperparameters:
        """The shape of a model; n_ffn is 3.5 times n_embd."""
        mix, decay = ranks or ((64, 128) if n_embd >= WIDE else (32, 64))
        return Rwkv6Hyperparameters(
            version="6",
            n_layer=n_layer,
            n_embd=n_embd,
            n_ffn=n_ffn or int(FFN_FACTOR * n_embd) // FFN_STEP * FFN_STEP,
            n_vocab=n_vocab,
            head_size=head_size,
            mix_rank=mix,
            decay_rank=decay,
        )

    def shapes(self, hyperparameters: Hyperparameters, unused: bool = False) -> dict[str, Shape]:
        """Every tensor as RWKV-LM saves it, where vectors have two leading ones."""
        del unused  # nothing is saved that nothing reads
        return {
            name: (1, 1, *shape) if is_mix_vector(name, shape) else shape
            for name, shape in Rwkv6Reader().required(hyperparameters).items()
        }

    def spread(
        self, name: str, shape: Shape, hyperparameters: Hyperparameters, zeros: float
    ) -> Spread:
        """How the numbers of a tensor are spread, by its name within the block."""
        fan_in = shape[-2] if name.endswith(("_w1", "_w2")) else shape[-1]
        per_input = fan_in**-0.5
        layer_share = (2 * hyperparameters.n_layer) ** -0.5
        table = {
            "emb.weight": Spread(0, 0.3),
            "head.weight": Spread(0, 2 * per_input),
            "ln2.bias": Spread(CHANNEL_MIX_BIAS, 0.05),
            # The decay exp(-exp(...)) then runs from nearly 1 to 0.4 across the channels.
            "att.time_decay": Spread(-3.5, 3.5, uniform=True),
            "att.time_decay_w1": Spread(0, per_input),
            "att.time_decay_w2": Spread(0, 0.5 * per_input),
            "att.time_faaaa": Spread(0.5, 0.5),
            "att.time_maa_w1": Spread(0, per_input),
            "att.time_maa_w2": Spread(0, 0.3 * per_input),
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
        if "time_maa" in name:
            return Spread(0.5, 0.5, uniform=True)
        return Spread(1, 0.1) if name.endswith("weight") else Spread(0, 0.05)


def is_mix_vector(name: str, shape: Shape) -> bool:
    """True for the vectors that RWKV-LM holds as (1, 1, n_embd): all but the norms'."""
    return len(shape) == 1 and not name.endswith(("weight", "bias"))
