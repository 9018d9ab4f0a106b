"""Random RWKV-4 checkpoints."""

from collections.abc import Sequence

from rwkv_edge.converters.arch.rwkv4 import Rwkv4Reader
from rwkv_edge.converters.checkpoints.base import Shape
from rwkv_edge.converters.synthetic.base import (
    CHANNEL_MIX_BIAS,
    Spread,
    SyntheticVersion,
    key_mean,
)
from rwkv_edge.hyperparameters import Hyperparameters


class SyntheticRwkv4(SyntheticVersion):
    """RWKV-4 of any shape."""

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
        """The shape of a model; n_ffn is four times n_embd. There are neither heads nor ranks."""
        del head_size, ranks
        return Hyperparameters(
            version="4",
            n_layer=n_layer,
            n_embd=n_embd,
            n_ffn=n_ffn or 4 * n_embd,
            n_vocab=n_vocab,
            head_size=n_embd,
        )

    def shapes(self, hyperparameters: Hyperparameters, unused: bool = False) -> dict[str, Shape]:
        """Every tensor as RWKV-LM saves it, where mixes have two leading ones."""
        del unused
        shapes = Rwkv4Reader().required(hyperparameters)
        return {
            name: (1, 1, *shape) if ".time_mix_" in name else shape
            for name, shape in shapes.items()
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
            # The past then fades by e**-20 to e**-0.007 with each token, across the channels.
            "att.time_decay": Spread(-1, 4, uniform=True),
            "att.time_first": Spread(-1.2, 0.5),
            "att.key.weight": Spread(0, per_input),
            "att.value.weight": Spread(0, per_input),
            "att.receptance.weight": Spread(0, per_input),
            "att.output.weight": Spread(0, 4 * layer_share * per_input),
            "ffn.key.weight": Spread(key_mean(zeros, fan_in), per_input),
            "ffn.receptance.weight": Spread(0, per_input),
            "ffn.value.weight": Spread(0, 8 * layer_share * per_input),
        }
        if name in table:
            return table[name]
        if ".time_mix_" in name:
            return Spread(0.5, 0.5, uniform=True)
        return Spread(1, 0.1) if name.endswith("weight") else Spread(0, 0.05)
