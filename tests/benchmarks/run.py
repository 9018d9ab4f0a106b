"""Random models of the real shapes, and `rwkv-edge bench` on each: one report a model and tier.

Usage: python tests/benchmarks/run.py [--shapes 12x768,24x1024] [--types Q4_0,Q8_0] [--tiers avx2]
       [--zeros 0.9] [--models FOLDER] [--out docs/performance] [-- options of rwkv-edge bench]

Checkpoints and models that are in the folder already are used again: 24x2048 takes 3 GB as a
checkpoint, 32x2560 6 GB. `tests/benchmarks/draw.py` makes tables and plots of the reports.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from rwkv_edge.converters.synthetic import ZEROS, synthetic_hyperparameters, write_synthetic
from rwkv_edge.runtime.simd.cpu import tier

ROOT = Path(__file__).resolve().parents[2]
SHAPES = "12x768,24x1024,24x2048,32x2560"
WORLD_VOCABULARY = 65536
PROGRAM = [sys.executable, "-m", "rwkv_edge.apps.cli"]


def checkpoint(folder: Path, shape: str, zeros: float, n_vocab: int) -> Path:
    """A random checkpoint of this shape, made unless it is there."""
    size = shape if n_vocab == WORLD_VOCABULARY else f"{shape}x{n_vocab}"
    path = folder / f"{size}-zeros{100 * zeros:.0f}.pth"
    if not path.exists():
        n_layer, n_embd = map(int, shape.split("x"))
        print(f"writing {path.name}", flush=True)
        # What was interrupted must not look like a whole checkpoint the next time.
        partial = path.with_suffix(".partial")
        hp = synthetic_hyperparameters(n_layer, n_embd, n_vocab=n_vocab)
        write_synthetic(partial, hp, zeros=zeros)
        partial.rename(path)
    return path


def converted(source: Path, weight_type: str) -> Path:
    """The same as a GGUF, made unless it is there."""
    path = source.with_name(f"{source.stem}-{weight_type.lower()}.gguf")
    if not path.exists():
        command = ["convert", str(source), "--type", weight_type, "-o", str(path)]
        subprocess.run([*PROGRAM, *command], check=True)
    return path


def bench(model: Path, tier_name: str, out: Path, options: list[str]) -> None:
    """Run it in a process of its own, on this tier; leaves MODEL-TIER.json in `out`."""
    report = out / f"{model.stem}-{tier_name}.json"
    print(f"measuring {report.stem}", flush=True)
    command = [*PROGRAM, "bench", str(model), "--json", str(report), *options]
    forced = {} if tier_name == tier() else {"RWKV_EDGE_CPU": tier_name}
    subprocess.run(command, env={**os.environ, **forced}, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run rwkv-edge bench on random models.")
    parser.add_argument("--shapes", default=SHAPES, help="layers x channels; default: %(default)s")
    parser.add_argument("--types", default="Q4_0,Q8_0", help="default: %(default)s")
    parser.add_argument("--tiers", default=tier(), help="default: the best here, %(default)s")
    parser.add_argument("--zeros", type=float, default=ZEROS, help="default: %(default).2f")
    parser.add_argument("--n-vocab", type=int, default=WORLD_VOCABULARY, help="that, or 256")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance")
    parser.add_argument("options", nargs="*", help="for rwkv-edge bench, after --")
    args = parser.parse_args()
    for folder in (args.models, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    for shape in args.shapes.split(","):
        source = checkpoint(args.models, shape, args.zeros, args.n_vocab)
        for weight_type in args.types.split(","):
            model = converted(source, weight_type)
            for tier_name in args.tiers.split(","):
                bench(model, tier_name, args.out, args.options)


if __name__ == "__main__":
    main()
