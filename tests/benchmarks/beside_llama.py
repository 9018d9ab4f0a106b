"""Decode and prefill speed beside llama-cpp-python, in turn, in one process; and start-up.

Usage: python tests/benchmarks/beside_llama.py MODEL.gguf [MODEL.gguf ...]
The 1.5B shape:
  python -m rwkv_edge.converters.synthetic 1.5b.pth --n-layer 24 --n-embd 2048 --n-vocab 65536
  rwkv-edge convert 1.5b.pth --q4
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rwkv_edge import Model

ROUNDS = 5
DECODED, PREFILLED = 16, 512
FIRST_TOKEN = """
import sys
from rwkv_edge import Model
model = Model.load(sys.argv[1])
print(next(model.stream("The", max_tokens=1, temperature=0)))
"""


def speeds(path):
    """{engine: ([decode tok/s], [prefill tok/s])}, engines A B A B after a warm-up."""
    tokens = np.random.default_rng(0).integers(1, 256, PREFILLED).astype(np.int32)
    models = {name: Model.load(path, backend=name) for name in ("numba", "llama")}
    states = {name: model.forward(tokens[:64])[1] for name, model in models.items()}
    measured = {name: ([], []) for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            began = time.perf_counter()
            for token in tokens[:DECODED]:
                model.forward([token], states[name])
            measured[name][0].append(DECODED / (time.perf_counter() - began))
            began = time.perf_counter()
            model.forward(tokens)
            measured[name][1].append(PREFILLED / (time.perf_counter() - began))
    for model in models.values():
        model.close()
    return measured


def seconds_to_first_token(path, cache):
    """From the start of a Python process to the first piece of text."""
    began = time.perf_counter()
    environment = {**os.environ, "RWKV_EDGE_CACHE": cache}
    subprocess.run(
        [sys.executable, "-c", FIRST_TOKEN, str(path)],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def main():
    for path in map(Path, sys.argv[1:]):
        measured = speeds(path)
        for number, what in enumerate(("decode", "prefill of 512")):
            medians = {n: statistics.median(m[number]) for n, m in measured.items()}
            ratio = medians["numba"] / medians["llama"]
            shown = ", ".join(f"{name} {speed:.1f} tok/s" for name, speed in medians.items())
            print(f"{path.name}: {what}: {shown}, ratio {ratio:.2f}")
        with tempfile.TemporaryDirectory() as cache:
            cold = seconds_to_first_token(path, cache)
            warm = statistics.median(seconds_to_first_token(path, cache) for _ in range(ROUNDS))
        print(f"{path.name}: first token after {cold:.1f} s cold, {warm:.2f} s warm")


if __name__ == "__main__":
    main()
