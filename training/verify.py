"""Check a written checkpoint against the official package: python -m training.verify MODEL.pth

Prints the largest logit difference between this package's model and the official one, bits per byte
of the held-out text beside the checkpoint, and samples, all from the official package.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.rwkv7_torch import load_rwkv7
from training.vocabulary import END_OF_DOCUMENT, Vocabulary
from training.wkv7 import CHUNK

N_COMPARED = 208  # tokens; a multiple of CHUNK
BLOCK = 256  # tokens a call: the official package runs long prompts token by token anyway
PROMPTS = (
    "Python is",
    "The database",
    "A function that",
    "If the file does not exist,",
    "The following example",
    "In Rust,",
    "When a transaction",
    "To create a new table,",
)


def official_model(path: Path) -> Any:
    """The `rwkv` package's model, float32 on the CPU."""
    os.environ["RWKV_V7_ON"] = "1"  # read when rwkv.model is imported
    from rwkv.model import RWKV  # type: ignore[import-untyped]

    return RWKV(str(path.with_suffix("")), "cpu fp32")


def all_logits(oracle: Any, tokens: list[int]) -> Tensor:
    """(tokens, n_vocab), the state carried through."""
    blocks, state = [], None
    for start in range(0, len(tokens), BLOCK):
        logits, state = oracle.forward(tokens[start : start + BLOCK], state, full_output=True)
        blocks.append(logits.reshape(-1, logits.shape[-1]))
    return torch.cat(blocks)


def sample(oracle: Any, vocabulary: Vocabulary, prompt: str, n_tokens: int, top_p: float) -> str:
    """The prompt and its continuation at temperature 1, up to a document's end."""
    tokens = vocabulary.encode(prompt).tolist()
    logits, state = oracle.forward(tokens, None)
    for _ in range(n_tokens):
        ranked, ids = torch.softmax(logits, -1).sort(descending=True)
        ranked[ranked.cumsum(0) - ranked > top_p] = 0.0
        token = int(ids[torch.multinomial(ranked, 1)])
        if token == END_OF_DOCUMENT:
            break
        tokens.append(token)
        logits, state = oracle.forward([token], state)
    return vocabulary.decode(tokens).decode("utf-8", errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=300, help="length of each sample")
    parser.add_argument("--top-p", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(args.seed)
    vocabulary = Vocabulary.read(args.checkpoint.with_suffix(".vocab.txt"))
    text = (args.checkpoint.parent / "heldout.txt").read_text(encoding="utf-8")
    tokens = [END_OF_DOCUMENT, *vocabulary.encode(text).tolist()]

    weights = torch.load(args.checkpoint, map_location="cpu")
    n_params = sum(tensor.numel() for tensor in weights.values())
    largest = max((float(tensor.float().abs().max()), name) for name, tensor in weights.items())
    print(f"{n_params} parameters, {args.checkpoint.stat().st_size} bytes; largest: {largest}")

    oracle = official_model(args.checkpoint)
    logits = all_logits(oracle, tokens[:-1])
    assert N_COMPARED % CHUNK == 0
    with torch.no_grad():
        ours = load_rwkv7(weights)(torch.tensor([tokens[:N_COMPARED]]))[0]
    theirs = logits[:N_COMPARED]
    difference = float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))
    print(f"logits: largest difference {difference:.2e} of the spread on {N_COMPARED} tokens")

    nats = float(functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="sum"))
    n_bytes = len(text.encode())
    print(f"held-out text: {nats / math.log(2) / n_bytes:.4f} bits per byte, {n_bytes} bytes,")
    print(f"{len(tokens) - 1} tokens, perplexity {math.exp(nats / (len(tokens) - 1)):.3f} a token")
    for prompt in PROMPTS:
        text = sample(oracle, vocabulary, prompt, args.tokens, args.top_p)
        print("-----", text, sep="\n", flush=True)


if __name__ == "__main__":
    main()
