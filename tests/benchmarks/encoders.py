"""How much each weight format loses, and how fast it is written, beside ggml's own quantizer.

Run at the top: python -m tests.benchmarks.encoders. It prints the tables of docs/weight-types.md.
Wants llama-cpp-python, whose library holds ggml.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rwkv_edge.apps.machine import inspect_machine
from rwkv_edge.builtin import checkpoint_path
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.row_encoder import ENCODERS, PIECE_WEIGHTS
from rwkv_edge.quant import QUANT_FORMATS, QuantFormat
from tests import ggml
from tests.trained import BESIDE_THE_REPOSITORY

Weights = npt.NDArray[np.float32]
Raw = npt.NDArray[np.uint8]
Encode = Callable[[type[QuantFormat], Weights], Raw]
N_COLUMNS = 1024
N_THREADS = 2
# In descending order of bits.
FORMATS = (
    "Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K",
    "Q2_K",
)  # fmt: skip
TRAINED = "tiny-rwkv-7v0-834K.pth"


def distributions(n_rows: int) -> dict[str, Weights]:
    """Weights to encode, (rows, N_COLUMNS), by what they are."""
    random = np.random.default_rng(0)
    shape = (n_rows, N_COLUMNS)
    outliers = random.standard_normal(shape)
    outliers.reshape(-1, 256)[:, 77] *= 1000
    made = {
        "normal": random.standard_normal(shape),
        "t, 3 d.f.": random.standard_t(3, shape),
        "Laplace": random.laplace(size=shape),
        "uniform": random.uniform(-1, 1, shape),
        "1 of 10 not zero": random.standard_normal(shape) * (random.random(shape) < 0.1),
        "outlier a block": outliers,
        "built-in model": matrices_of(checkpoint_path(), n_rows),
    }
    if (BESIDE_THE_REPOSITORY / TRAINED).is_file():
        made["trained model"] = matrices_of(BESIDE_THE_REPOSITORY / TRAINED, n_rows)
    return {name: np.ascontiguousarray(x, np.float32) for name, x in made.items()}


def matrices_of(path: Path, n_rows: int) -> Weights:
    """Weights of all large matrices of a checkpoint, one after the other; at most so many rows."""
    with open_checkpoint(path) as checkpoint:
        parts = [
            checkpoint.read(name).reshape(-1)
            for name in checkpoint.names()
            # The low-rank ones have other names.
            if len(checkpoint.shape(name)) == 2 and name.endswith(".weight")
        ]
    flat = np.concatenate(parts)
    rows = flat[: flat.size // N_COLUMNS * N_COLUMNS].reshape(-1, N_COLUMNS)
    return rows[:: max(1, len(rows) // n_rows)][:n_rows]


def encode_here(quant: type[QuantFormat], x: Weights) -> Raw:
    """As a conversion does it: piece by piece."""
    encode, _ = ENCODERS[quant]
    flat, out = x.reshape(-1), np.empty((len(x), quant.row_bytes(x.shape[1])), np.uint8)
    flat_out, piece_bytes = out.reshape(-1), quant.row_bytes(PIECE_WEIGHTS)
    for i, first in enumerate(range(0, flat.size, PIECE_WEIGHTS)):
        piece = flat[first : first + PIECE_WEIGHTS]
        n_bytes = quant.row_bytes(piece.size)
        assert encode(piece, flat_out[i * piece_bytes : i * piece_bytes + n_bytes])
    return out


def relative_error(quant: type[QuantFormat], encode: Encode, x: Weights) -> float:
    """Root mean square of what is lost, as a share of the weights' own."""
    error = quant.decode(encode(quant, x), x.shape[1]).astype(np.float64) - x
    return float(np.sqrt(np.mean(error**2) / np.mean(x.astype(np.float64) ** 2)))


def speed(quant: type[QuantFormat], encode: Encode, parts: list[Weights]) -> float:
    """Weights per second, one part on each thread, each with a core to itself.

    By the threads' own time, so that others on the machine do not count.
    """

    def timed(x: Weights) -> float:
        began = time.thread_time()
        encode(quant, x)
        return time.thread_time() - began

    with ThreadPoolExecutor(len(parts)) as pool:
        seconds = list(pool.map(timed, parts))
    return sum(part.size / second for part, second in zip(parts, seconds, strict=True))


def speeds(name: str, n_rows: int, n_rounds: int) -> tuple[float, float]:
    """Ours and ggml's in turns, after one round that does not count; medians."""
    quant = QUANT_FORMATS[name]
    random = np.random.default_rng(1)
    parts = [random.standard_normal((n_rows, N_COLUMNS), np.float32) for _ in range(N_THREADS)]
    found: dict[Encode, list[float]] = {encode_here: [], ggml.encode: []}
    for round_number in range(n_rounds + 1):
        for encode, measured in found.items():
            each = speed(quant, encode, parts)
            if round_number:
                measured.append(each)
    ours, theirs = (statistics.median(measured) for measured in found.values())
    return ours, theirs


def error_table(names: tuple[str, ...], n_rows: int) -> list[str]:
    """Ours / ggml's in each cell, in per cent of the weights' root mean square."""
    weights = distributions(n_rows)
    lines = ["| | " + " | ".join(weights) + " |", "|---|" + "---|" * len(weights)]
    for name in names:
        quant = QUANT_FORMATS[name]
        cells = []
        for x in weights.values():
            ours, theirs = (relative_error(quant, e, x) for e in (encode_here, ggml.encode))
            cells.append(f"{100 * ours:.2f} / {100 * theirs:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def speed_table(names: tuple[str, ...], n_rows: int, n_rounds: int) -> list[str]:
    """Millions of weights per second."""
    lines = ["| | rwkv-edge | ggml |", "|---|---|---|"]
    for name in names:
        ours, theirs = speeds(name, n_rows, n_rounds)
        lines.append(f"| {name} | {ours / 1e6:.0f} | {theirs / 1e6:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256, help=f"of {N_COLUMNS} weights each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", default=",".join(FORMATS))
    args = parser.parse_args()
    names = tuple(args.formats.split(","))
    print(f"{inspect_machine().cpu}, {N_THREADS} threads\n")
    for line in (
        "Error, % of the weights' root mean square, rwkv-edge / ggml:\n",
        *error_table(names, args.rows),
        "\nSpeed, millions of weights per second, normal weights:\n",
        *speed_table(names, args.rows, args.rounds),
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
