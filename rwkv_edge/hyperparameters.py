"""The numbers that every RWKV version shares."""

from dataclasses import dataclass

LAYER_NORM_EPS = 1e-5
# Group norm over heads, RWKV-5 to 7: the papers scale 1e-5 by (head_size_divisor = 8) squared.
GROUP_NORM_EPS = 64e-5


@dataclass(frozen=True)
class Hyperparameters:
    """Shape of one model.

    version: as its authors count, "7" for RWKV-7; one of those that an entry of
    `rwkv_edge.arch.ARCHITECTURES` holds.
    n_ffn: width of the channel mix; head_size: rows and columns of one head's state.
    """

    version: str
    n_layer: int
    n_embd: int
    n_ffn: int
    n_vocab: int
    head_size: int

    @property
    def n_head(self) -> int:
        """Heads per layer."""
        return self.n_embd // self.head_size
