"""The versions of RWKV that random checkpoints are made of."""

from collections.abc import Sequence

from rwkv_edge.converters.synthetic.base import SyntheticVersion
from rwkv_edge.converters.synthetic.rwkv4 import SyntheticRwkv4
from rwkv_edge.converters.synthetic.rwkv5 import SyntheticRwkv5
from rwkv_edge.converters.synthetic.rwkv6 import SyntheticRwkv6
from rwkv_edge.converters.synthetic.rwkv7 import SyntheticRwkv7
from rwkv_edge.converters.synthetic.rwkv7a import SyntheticRwkv7a
from rwkv_edge.hyperparameters import Hyperparameters

# Explicit, because a frozen desktop build misses imports made from strings.
SYNTHETIC_VERSIONS: dict[str, SyntheticVersion] = {
    "4": SyntheticRwkv4(),
    "5.0": SyntheticRwkv5("5.0"),
    "5.1": SyntheticRwkv5("5.1"),
    "5.2": SyntheticRwkv5("5.2"),
    "6": SyntheticRwkv6(),
    "7": SyntheticRwkv7(),
    "7a": SyntheticRwkv7a(),
}


def synthetic_hyperparameters(
    n_layer: int,
    n_embd: int,
    *,
    version: str = "7",
    n_ffn: int | None = None,
    n_vocab: int = 65536,
    head_size: int = 64,
    ranks: Sequence[int] | None = None,
) -> Hyperparameters:
    """The shape of a model; n_ffn and ranks as its authors choose them where they are None."""
    return SYNTHETIC_VERSIONS[version].hyperparameters(
        n_layer, n_embd, n_ffn=n_ffn, n_vocab=n_vocab, head_size=head_size, ranks=ranks
    )
