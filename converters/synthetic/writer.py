"""Random numbers into a `.pth`, a chunk at a time."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path

import numpy as np

from rwkv_edge.converters.checkpoints.base import ELEMENT_DTYPES, Shape
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.converters.synthetic.base import ZEROS, Spread
from rwkv_edge.converters.synthetic.versions import SYNTHETIC_VERSIONS
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import BF16, F16, F32, Bytes, QuantFormat

FORMATS: dict[str, type[QuantFormat]] = {"float32": F32, "float16": F16, "bfloat16": BF16}
CHUNK_WEIGHTS = 1 << 20
N_THREADS = 2


def write_synthetic(
    path: str | Path,
    hp: Hyperparameters,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    unused: bool = False,
    zeros: float = ZEROS,
) -> None:
    """Write a random checkpoint to a `.pth`; the same arguments give the same numbers.

    dtype: "float32", "float16" or "bfloat16". unused: also write tensors that some training runs
    save and nothing reads. zeros: share of the channel mix's activations that are zero, between 0
    and 1.
    """
    version = SYNTHETIC_VERSIONS[hp.version]
    with PthWriter(Path(path)) as writer, ThreadPoolExecutor(N_THREADS) as pool:
        for i, (name, shape) in enumerate(version.shapes(hp, unused).items()):
            within_block = name.split(".", 2)[2] if name.startswith("blocks.") else name
            spread = version.spread(within_block, shape, hp, zeros)
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
