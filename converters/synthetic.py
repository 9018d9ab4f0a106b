"""Random RWKV-7 checkpoints of any shape: for benchmarks, and for tests without a trained model.

The magnitudes are those of a trained model: activations neither explode nor vanish over many
layers, and most of the channel mix's activations are zero (how many can be chosen).
"""

import argparse
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import NormalDist

import numpy as np

from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.arch.rwkv7 import LAYER_0_PADDING, Rwkv7Reader
from rwkv_edge.converters.checkpoints.base import ELEMENT_DTYPES, Shape
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.quant import BF16, F16, F32, Bytes, QuantFormat

FORMATS: dict[str, type[QuantFormat]] = {"float32": F32, "float16": F16, "bfloat16": BF16}
CHUNK_WEIGHTS = 1 << 20
N_THREADS = 2
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


def spread_of(name: str, shape: Shape, hp: Rwkv7Hyperparameters, zeros: float = ZEROS) -> Spread:
    """How the numbers of a checkpoint tensor are spread, by its name within the block."""
    fan_in = shape[0] if name[-1] in "12" else shape[-1]
    per_input = fan_in**-0.5
    layer_share = (2 * hp.n_layer) ** -0.5
    # Activations before relu have a standard deviation of about one.
    # All or none would take a threshold at infinity.
    threshold = NormalDist().inv_cdf(min(max(zeros, 1e-4), 1 - 1e-4))
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
        "ffn.key.weight": Spread(-threshold / (CHANNEL_MIX_BIAS * fan_in), per_input),
        "ffn.value.weight": Spread(0, 4 * layer_share * per_input),
    }
    if name in table:
        return table[name]
    if name.startswith(("att.x_", "ffn.x_")):
        return Spread(0.5, 0.5, uniform=True)
    return Spread(1, 0.1) if name.endswith("weight") else Spread(0, 0.05)


def checkpoint_shapes(hp: Rwkv7Hyperparameters, layer_0_values: bool) -> dict[str, Shape]:
    """Every tensor as RWKV-LM saves it, where vectors have two leading ones."""
    shapes = Rwkv7Reader().required(hp)
    if layer_0_values:
        ranks = {"v0": (hp.n_embd,), "v1": (hp.n_embd, hp.value_rank),
                 "v2": (hp.value_rank, hp.n_embd)}  # fmt: skip
        shapes |= {f"blocks.0.att.{name}": ranks[name] for name in LAYER_0_PADDING}
    return {
        name: (1, 1, *shape) if is_mix_vector(name, shape) else shape
        for name, shape in shapes.items()
    }


def is_mix_vector(name: str, shape: Shape) -> bool:
    """True for the vectors that RWKV-LM holds as (1, 1, n_embd): all but the norms'."""
    return len(shape) == 1 and not name.endswith(("weight", "bias"))


def write_synthetic(
    path: str | Path,
    hp: Rwkv7Hyperparameters,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    layer_0_values: bool = False,
    zeros: float = ZEROS,
) -> None:
    """Write a random checkpoint to a `.pth`; the same arguments give the same numbers.

    dtype: "float32", "float16" or "bfloat16". layer_0_values: also write layer 0's unused
    v0, v1, v2. zeros: share of the channel mix's activations that are zero, between 0 and 1.
    """
    with PthWriter(Path(path)) as writer, ThreadPoolExecutor(N_THREADS) as pool:
        for i, (name, shape) in enumerate(checkpoint_shapes(hp, layer_0_values).items()):
            within_block = name.split(".", 2)[2] if name.startswith("blocks.") else name
            spread = spread_of(within_block, shape, hp, zeros)
            writer.add(name, dtype, shape, chunks(pool, shape, spread, dtype, (seed, i)))


def chunks(
    pool: ThreadPoolExecutor, shape: Shape, spread: Spread, dtype: str, seed: tuple[int, int]
) -> Iterator[memoryview]:
    """The bytes of one tensor in order; each chunk has its own seed, whichever thread makes it."""
    n = prod(shape)
    under_way: deque[Future[Bytes]] = deque()
    for k, start in enumerate(range(0, n, CHUNK_WEIGHTS)):
        size = min(CHUNK_WEIGHTS, n - start)
        under_way.append(pool.submit(random_chunk, size, spread, dtype, (*seed, k)))
        if len(under_way) > N_THREADS:
            yield under_way.popleft().result().data
    while under_way:
        yield under_way.popleft().result().data


def random_chunk(size: int, spread: Spread, dtype: str, seed: tuple[int, ...]) -> Bytes:
    """`size` random numbers as the bytes of `dtype`."""
    random = np.random.Generator(np.random.SFC64(seed))
    if spread.uniform:
        numbers = random.random(size, np.float32)
        numbers *= np.float32(2 * spread.spread)
        numbers += np.float32(spread.mean - spread.spread)
    else:
        numbers = random.standard_normal(size, np.float32)
        numbers *= np.float32(spread.spread)
        numbers += np.float32(spread.mean)
    assert ELEMENT_DTYPES[dtype].itemsize == FORMATS[dtype].block.itemsize
    return FORMATS[dtype].encode(numbers).reshape(-1)


def default_rank(n_embd: int, exponent: float, factor: float) -> int:
    """A rank as RWKV-LM chooses it: in proportion to a power of the width, in steps of 32."""
    steps: int = round(factor * float(n_embd) ** exponent / RANK_STEP)
    return max(1, steps) * RANK_STEP


def synthetic_hyperparameters(
    n_layer: int,
    n_embd: int,
    *,
    n_ffn: int | None = None,
    n_vocab: int = 65536,
    head_size: int = 64,
    ranks: tuple[int, int, int, int] | None = None,
) -> Rwkv7Hyperparameters:
    """The shape of a model; ranks: of w, a, v and g."""
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


def main() -> None:
    """`python -m rwkv_edge.converters.synthetic`."""
    parser = argparse.ArgumentParser(description="Write a random RWKV-7 checkpoint.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--n-layer", type=int, default=24)
    parser.add_argument("--n-embd", type=int, default=2048)
    parser.add_argument("--n-ffn", type=int, help="default: four times n-embd")
    parser.add_argument("--n-vocab", type=int, default=65536)
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument("--ranks", type=int, nargs=4, metavar=("W", "A", "V", "G"))
    parser.add_argument("--dtype", choices=list(FORMATS), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layer-0-values", action="store_true", help="write layer 0's v0, v1, v2")
    parser.add_argument(
        "--zeros",
        type=float,
        default=ZEROS,
        metavar="SHARE",
        help="of the channel mix's activations; default: %(default).2f",
    )
    args = parser.parse_args()
    if args.n_embd % args.head_size:
        parser.error(f"--n-embd must be a multiple of the head size {args.head_size}")
    if not 0 < args.zeros < 1:
        parser.error("--zeros must lie between 0 and 1")
    hp = synthetic_hyperparameters(
        args.n_layer,
        args.n_embd,
        n_ffn=args.n_ffn,
        n_vocab=args.n_vocab,
        head_size=args.head_size,
        ranks=tuple(args.ranks) if args.ranks else None,
    )
    write_synthetic(
        args.path,
        hp,
        dtype=args.dtype,
        seed=args.seed,
        layer_0_values=args.layer_0_values,
        zeros=args.zeros,
    )


if __name__ == "__main__":
    main()
