"""`python -m rwkv_edge.converters.synthetic`."""

import argparse
from pathlib import Path

from rwkv_edge.converters.synthetic import (
    FORMATS,
    SYNTHETIC_VERSIONS,
    ZEROS,
    synthetic_hyperparameters,
    write_synthetic,
)


def main() -> None:
    """Read the options and write the file."""
    parser = argparse.ArgumentParser(description="Write a random RWKV checkpoint.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--version", choices=list(SYNTHETIC_VERSIONS), default="7")
    parser.add_argument("--n-layer", type=int, default=24)
    parser.add_argument("--n-embd", type=int, default=2048)
    parser.add_argument("--n-ffn", type=int, help="default: as its authors choose it")
    parser.add_argument("--n-vocab", type=int, default=65536)
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument(
        "--ranks", type=int, nargs="+", help="of the low-rank matrices; RWKV-7: W A V G"
    )
    parser.add_argument("--dtype", choices=list(FORMATS), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unused", action="store_true", help="write also what nothing reads")
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
    rank_names = SYNTHETIC_VERSIONS[args.version].rank_names
    if args.ranks and len(args.ranks) != len(rank_names):
        parser.error(f"--ranks takes {len(rank_names)} numbers: {' '.join(rank_names)}")
    if not 0 < args.zeros < 1:
        parser.error("--zeros must lie between 0 and 1")
    hp = synthetic_hyperparameters(
        args.n_layer,
        args.n_embd,
        version=args.version,
        n_ffn=args.n_ffn,
        n_vocab=args.n_vocab,
        head_size=args.head_size,
        ranks=args.ranks,
    )
    write_synthetic(
        args.path,
        hp,
        dtype=args.dtype,
        seed=args.seed,
        unused=args.unused,
        zeros=args.zeros,
    )


if __name__ == "__main__":
    main()
