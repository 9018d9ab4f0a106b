"""Random RWKV-7a checkpoints: RWKV-7 with DeepEmbed."""

from collections.abc import Sequence
from dataclasses import replace

from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.arch.rwkv7a import DEEP_EMBED_RANK
from rwkv_edge.converters.arch.rwkv7a import Rwkv7aReader
from rwkv_edge.converters.checkpoints.base import Shape
from rwkv_edge.converters.synthetic.base import Spread
from rwkv_edge.converters.synthetic.rwkv7 import SyntheticRwkv7
from rwkv_edge.hyperparameters import Hyperparameters


class SyntheticRwkv7a(SyntheticRwkv7):
    """RWKV-7a of any shape."""

    reader = Rwkv7aReader()

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
        """The shape of an RWKV-7 model."""
        hp = super().hyperparameters(
            n_layer, n_embd, n_ffn=n_ffn, n_vocab=n_vocab, head_size=head_size, ranks=ranks
        )
        return replace(hp, version="7a")

    def spread(
        self, name: str, shape: Shape, hyperparameters: Hyperparameters, zeros: float
    ) -> Spread:
        """How the numbers of a tensor are spread: what modulates is about 1, give or take half."""
        per_rank = DEEP_EMBED_RANK**-0.5
        per_input = hyperparameters.n_embd**-0.5
        table = {
            "ffn.s_emb.weight": Spread(0, per_rank),
            "ffn.s_emb_x.weight": Spread(0, 0.3 * per_rank * per_input),
            "ffn.s0": Spread(1, 0.1),
            "ffn.s1": Spread(0, per_input),
            "ffn.s2": Spread(0, 0.5 * per_rank),
        }
        return table.get(name) or super().spread(name, shape, hyperparameters, zeros)
