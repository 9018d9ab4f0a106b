"""Random RWKV-7 checkpoints."""

from collections.abc import Sequence

from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters, as_rwkv7
from rwkv_edge.converters.arch.rwkv7 import Rwkv7Reader
from rwkv_edge.converters.checkpoints.base import Shape
from rwkv_edge.converters.synthetic.base import (
    CHANNEL_MIX_BIAS,
    Spread,
    SyntheticVersion,
    default_rank,
    key_mean,
)
from rwkv_edge.hyperparameters import Hyperparameters


class SyntheticRwkv7(SyntheticVersion):
    """RWKV-7 of any shape."""

    rank_names = ("w", "a", "v", "g")
    reader = Rwkv7Reader()

    def hyperparameters(
        self,
        n_layer: int,
        n_embd: int,
        *,
        n_ffn: int | None,
        n_vocab: int,
        head_size: int,
        ranks: Sequence[int] | None,
    ) -> Rwkv7Hyperparameters:
        """The shape of a model; n_ffn is four times n_embd, ranks grow with its root."""
        decay, iclr, value, gate = ranks or (
            default_rank(n_embd, 0.5, 1.8),
            default_rank(n_embd, 0.5, 1.8),
            default_rank(n_embd, 0.5, 1.3),
            default_rank(n_embd, 0.8, 0.6),
        )
        return Rwkv7Hyperparameters(
            version="7",
            n_layer=n_layer,
            n_embd=n_embd,
            n_ffn=n_ffn or 4 * n_embd,
            n_vocab=n_vocab,
            head_size=head_size,
            decay_rank=decay,
            iclr_rank=iclr,
            value_rank=value,
            gate_rank=gate,
        )

    def shapes(self, hyperparameters: Hyperparameters, unused: bool = False) -> dict[str, Shape]:
        """Every tensor as RWKV-LM saves it, where vectors have two leading ones.

        unused: also layer 0's v0, v1, v2, which some training runs save.
        """
        hp = as_rwkv7(hyperparameters)
        shapes = self.reader.required(hp)
        if unused:
            shapes |= {
                "blocks.0.att.v0": (hp.n_embd,),
                "blocks.0.att.v1": (hp.n_embd, hp.value_rank),
                "blocks.0.att.v2": (hp.value_rank, hp.n_embd),
            }
        return {
            name: (1, 1, *shape) if is_mix_vector(name, shape) else shape
            for name, shape in shapes.items()
        }

    def spread(
        self, name: str, shape: Shape, hyperparameters: Hyperparameters, zeros: float
    ) -> Spread:
        """How the numbers of a tensor are spread, by its name within the block."""
        fan_in = shape[0] if name[-1] in "12" else shape[-1]
        per_input = fan_in**-0.5
        layer_share = (2 * hyperparameters.n_layer) ** -0.5
        table = {
            "emb.weight": Spread(0, 0.3),
            "head.weight": Spread(0, 2 * per_input),
            "ln2.bias": Spread(CHANNEL_MIX_BIAS, 0.05),
            # The decay exp(-0.61 sigmoid(w0)) then runs from nearly 1 to 0.7 across the channels.
            "att.w0": Spread(-3, 3, uniform=True),
            "att.a0": Spread(0, 0.5),
            "att.v0": Spread(0.7, 0.3),
            "att.k_k": Spread(0.85, 0.1),
            "att.k_a": Spread(1, 0.1),
            "att.r_k": Spread(0, 0.1),
            "att.w1": Spread(0, per_input),
            "att.a1": Spread(0, per_input),
            "att.v1": Spread(0, per_input),
            "att.g1": Spread(0, per_input),
            "att.w2": Spread(0, 0.5 * per_input),
            "att.a2": Spread(0, 0.5 * per_input),
            "att.v2": Spread(0, 0.5 * per_input),
            "att.g2": Spread(0, 1.5 * per_input),
            "att.receptance.weight": Spread(0, 0.5 * per_input),
            "att.key.weight": Spread(0, 0.5 * per_input),
            "att.value.weight": Spread(0, 0.7 * per_input),
            "att.output.weight": Spread(0, 2 * layer_share * per_input),
            "ffn.key.weight": Spread(key_mean(zeros, fan_in), per_input),
            "ffn.value.weight": Spread(0, 4 * layer_share * per_input),
        }
        if name in table:
            return table[name]
        if name.startswith(("att.x_", "ffn.x_")):
            return Spread(0.5, 0.5, uniform=True)
        return Spread(1, 0.1) if name.endswith("weight") else Spread(0, 0.05)


def is_mix_vector(name: str, shape: Shape) -> bool:
    """True for the vectors that RWKV-LM holds as (1, 1, n_embd): all but the norms'."""
    return len(shape) == 1 and not name.endswith(("weight", "bias"))
