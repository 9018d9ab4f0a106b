"""How fast each weight type is decoded: bytes a second of the kernels, and of whole models.

Usage: python -m tests.benchmarks.weight_types [--types Q4_K,Q6_K] [--threads 1,2] [--against-llama]
       [--models FOLDER] [--rounds 7]

Kernels: one matrix of 2048 columns, far larger than any cache, times one token's activations, and
beside it a plain read of as much memory by the same threads, in turns. With --against-llama: a
random RWKV-7 of four layers of 2048 channels, quantized by llama.cpp itself, decoded by both
engines in turns. All numbers are medians; tables are Markdown. Close other programs first.
"""

import argparse
import ctypes
import time
from pathlib import Path
from statistics import median

import numpy as np

from rwkv_edge import Model
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.model_file import ModelFile
from rwkv_edge.quant import QUANT_FORMATS
from rwkv_edge.runtime.kernels.columns import new_active_columns
from rwkv_edge.runtime.kernels.elementwise import share
from rwkv_edge.runtime.kernels.matmul import matmul
from rwkv_edge.runtime.kernels.panel import new_panels
from rwkv_edge.runtime.kernels.read_bandwidth import TURN, sum_of
from rwkv_edge.runtime.team import ThreadTeam
from tests.runtime.kernels.packed_matrices import FLOATS, inputs, pack_rows, random_rows

ROOT = Path(__file__).resolve().parents[2]
TYPES = [name for name, quant in QUANT_FORMATS.items() if quant not in FLOATS]
# llama.cpp's numbers of the file types that are of one type each, where `pure` is asked for.
LLAMA_FILE_TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 14,
    "Q5_K": 16, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
}  # fmt: skip
N_COLUMNS, N_ROWS, ROWS_REPEATED = 2048, 65536, 1024
N_LAYER, N_VOCAB, N_TOKENS = 4, 256, 24
REST_S = 0.3


class Stack:
    """A packed matrix of one type, and its product with one token."""

    def __init__(self, name: str) -> None:
        quant = QUANT_FORMATS[name]
        rows = random_rows(quant, (ROWS_REPEATED, N_COLUMNS))
        raw = np.tile(rows, (N_ROWS // ROWS_REPEATED, 1))
        self.file_bytes = raw.nbytes
        packed = pack_rows(raw, quant, N_COLUMNS, n_threads=2)
        self.weights, self.matrix = packed.weights, packed.matrix[0]
        values = np.random.default_rng(0).standard_normal((1, N_COLUMNS))
        self.x, _ = inputs(values.astype(np.float32))
        self.active = new_active_columns(1, N_COLUMNS)
        self.y = np.zeros((1, N_ROWS), np.float32)

    def seconds(self, team: ThreadTeam) -> float:
        """One product by all threads of the team."""
        panels = new_panels(team.n_threads)

        def multiply(thread: int, n: int) -> None:
            first, last = share(N_ROWS, 32, thread, n)
            operands = (self.weights, self.matrix, self.x, self.active, 1, self.y)
            matmul(*operands, first, last, panels[thread])

        return timed(team, multiply)


class PlainRead:
    """A buffer of some size that is read and summed."""

    def __init__(self, n_bytes: int) -> None:
        # Written, because pages that nobody wrote to are all the same one.
        self.buffer = np.ones(n_bytes // 4 // TURN * TURN, np.float32)

    def seconds(self, team: ThreadTeam) -> float:
        """One reading by all threads of the team."""
        sums = np.zeros(team.n_threads, np.float32)

        def read(thread: int, n: int) -> None:
            first, last = share(self.buffer.size, TURN, thread, n)
            sums[thread] = sum_of(self.buffer, first, last)

        return timed(team, read)


def timed(team: ThreadTeam, task: object) -> float:
    began = time.perf_counter()
    team.run(task)  # type: ignore[arg-type]
    return time.perf_counter() - began


def measure_kernels(types: list[str], threads: list[int], rounds: int) -> None:
    """A table of bytes a second, packed and as in the file, and the share of a plain read."""
    stacks = {name: Stack(name) for name in types}
    plain = PlainRead(max(stack.weights.nbytes for stack in stacks.values()))
    print("| type | threads | packed / file | GB/s packed | GB/s of file | read GB/s | share |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for n_threads in threads:
        team = ThreadTeam(n_threads)
        times: dict[str, list[float]] = {name: [] for name in stacks}
        reads: list[float] = []
        for n in range(rounds + 1):
            for name, stack in stacks.items():
                read, product = plain.seconds(team), stack.seconds(team)
                if n > 0:  # the first round warms up
                    reads.append(read)
                    times[name].append(product)
        team.close()
        limit = plain.buffer.nbytes / median(reads)
        for name, stack in stacks.items():
            speed = stack.weights.nbytes / median(times[name])
            ratio = stack.weights.nbytes / stack.file_bytes
            print(
                f"| {name} | {n_threads} | {ratio:.3f} | {speed / 1e9:.1f} "
                f"| {speed / ratio / 1e9:.1f} | {limit / 1e9:.1f} | {100 * speed / limit:.0f} % |"
            )


def quantized(folder: Path, name: str) -> Path:
    """The random model in one type, by llama.cpp's own quantizer; made unless it is there."""
    import llama_cpp

    path, source = folder / f"types-{name}.gguf", folder / "types-F16.gguf"
    if not source.exists():
        hp = synthetic_hyperparameters(N_LAYER, N_COLUMNS, n_vocab=N_VOCAB)
        # Without zeros, so that both engines read all weights.
        write_synthetic(source.with_suffix(".pth"), hp, zeros=0.0)
        convert(source.with_suffix(".pth"), source, "F16")
    if not path.exists():
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype, parameters.pure = LLAMA_FILE_TYPES[name], True
        status = llama_cpp.llama_model_quantize(
            str(source).encode(), str(path).encode(), ctypes.byref(parameters)
        )
        assert status == 0, f"llama.cpp could not quantize {name}"
    return path


def decode_seconds(model: Model) -> float:
    """A token after another, from a fresh state: seconds for each."""
    time.sleep(REST_S)
    _, state = model.forward([1])
    began = time.perf_counter()
    for token in range(N_TOKENS):
        model.forward([token], state)
    return (time.perf_counter() - began) / N_TOKENS


def measure_models(types: list[str], folder: Path, rounds: int) -> None:
    """A table of tokens a second of both engines."""
    paths = {name: quantized(folder, name) for name in types}
    print("| type | rwkv-edge tok/s | llama.cpp tok/s | ratio | rwkv-edge GB/s of file |")
    print("| --- | --- | --- | --- | --- |")
    for name, path in paths.items():
        with Model.load(path) as ours, Model.load(path, backend="llama") as theirs:
            times: tuple[list[float], list[float]] = ([], [])
            for n in range(rounds + 1):
                for model, seconds in zip((ours, theirs), times, strict=True):
                    found = decode_seconds(model)
                    if n > 0:
                        seconds.append(found)
        file = ModelFile(path)
        n_bytes = file.bytes_per_token
        file.close()
        own, other = (1 / median(seconds) for seconds in times)
        print(
            f"| {name} | {own:.1f} | {other:.1f} | {own / other:.2f} | {own * n_bytes / 1e9:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure decoding by weight type.")
    parser.add_argument("--types", default=",".join(TYPES), help="default: all")
    parser.add_argument("--threads", default="1,2", help="default: %(default)s")
    parser.add_argument("--against-llama", action="store_true", help="whole models instead")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    types = args.types.split(",")
    if args.against_llama:
        args.models.mkdir(parents=True, exist_ok=True)
        measure_models(types, args.models, args.rounds)
    else:
        measure_kernels(types, [int(n) for n in args.threads.split(",")], args.rounds)


if __name__ == "__main__":
    main()
