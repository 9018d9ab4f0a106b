"""What a version of RWKV says about its random checkpoints: shapes, and how numbers are spread."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from rwkv_edge.converters.checkpoints.base import Shape
from rwkv_edge.hyperparameters import Hyperparameters

RANK_STEP = 32
# LayerNorm before the channel mix adds this to every channel; the mean of ffn.key turns it into as
# many standard deviations below zero as make the wanted share of activations zero after relu.
CHANNEL_MIX_BIAS = 0.5
# That share in trained RWKV-7 models is about 0.9, in RWKV-6 0.67. Stored logits of random
# checkpoints were made with 1.3 standard deviations, so the default must stay exactly that.
ZEROS = NormalDist().cdf(1.3)


@dataclass(frozen=True)
class Spread:
    """Normal numbers, or uniform ones between mean - spread and mean + spread."""

    mean: float
    spread: float
    uniform: bool = False


class SyntheticVersion(ABC):
    """One version's random checkpoints. rank_names: what the ranks belong to, in their order."""

    rank_names: tuple[str, ...] = ()

    @abstractmethod
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
        """The shape of a model; n_ffn and ranks as its authors choose them where they are None."""

    @abstractmethod
    def shapes(self, hyperparameters: Hyperparameters, unused: bool = False) -> dict[str, Shape]:
        """Every tensor as RWKV-LM saves it, leading dimensions of one included.

        unused: also those that some training runs save and nothing reads.
        """

    @abstractmethod
    def spread(
        self, name: str, shape: Shape, hyperparameters: Hyperparameters, zeros: float
    ) -> Spread:
        """How the numbers of a tensor are spread, by its name within the block.

        zeros: the share of the channel mix's activations that shall be zero.
        """


def key_mean(zeros: float, fan_in: int) -> float:
    """The mean of ffn.key that makes this share of the channel mix's activations zero."""
    # All or none would take a threshold at infinity. Before relu the deviation is about one.
    threshold = NormalDist().inv_cdf(min(max(zeros, 1e-4), 1 - 1e-4))
    return -threshold / (CHANNEL_MIX_BIAS * fan_in)


def default_rank(n_embd: int, exponent: float, factor: float) -> int:
    """A rank as RWKV-LM chooses it: in proportion to a power of the width, in steps of 32."""
    steps: int = round(factor * float(n_embd) ** exponent / RANK_STEP)
    return max(1, steps) * RANK_STEP
