"""Train the built-in checkpoint: python -m training.train --minutes 70 --out DIR/rwkv7-builtin.pth

Reads the installed documentation packages, builds the vocabulary, trains, and writes the checkpoint
(bfloat16, BlinkDL's layout), its vocabulary, a held-out text and the figures for the model card.
The schedule runs over the wall clock: it ends annealed at the deadline even when the process was
paused or slowed. Snapshots replace the output file as training goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.batches import Batches, token_stream
from training.corpus import HELD_OUT_LICENCE_SOURCE, SOURCES, Document, documents
from training.evaluate import held_out_bits, sample
from training.optimizer import optimizers
from training.rwkv7_torch import RWKV7, Shape
from training.vocabulary import Vocabulary, build_vocabulary

TOKENS_PER_STEP = 4096
SHORT_CONTEXT, LONG_CONTEXT = 512, 1024
LONG_CONTEXT_FROM = 0.6  # of the time: short windows first, since they vary more within a batch
WARM_UP = 0.01
HOLD_UNTIL = 0.3
FINAL_LR = 0.01
GRADIENT_NORM = 1.0
SNAPSHOT_S = 600
SNAPSHOT_WINDOWS = 64
REPORT_STEPS = 50
MAX_HELD_OUT_FILE = 64_000
PROMPTS = ("Python is", "The database", "A function that")


def lr_factor(progress: float) -> float:
    """Warm-up, plateau, then a line down to nearly nothing at progress 1."""
    if progress < WARM_UP:
        return max(0.01, progress / WARM_UP)
    if progress < HOLD_UNTIL:
        return 1.0
    rest = (1.0 - min(progress, 1.0)) / (1.0 - HOLD_UNTIL)
    return FINAL_LR + (1.0 - FINAL_LR) * rest


@dataclass(frozen=True)
class Data:
    """The tokenized corpus."""

    vocabulary: Vocabulary
    parts: list[NDArray[np.int32]]
    held_out: NDArray[np.int32]
    held_out_text: str
    n_bytes: int

    @property
    def n_tokens(self) -> int:
        return sum(part.size for part in self.parts)


def held_out_file(texts: list[Document]) -> str:
    """The first MAX_HELD_OUT_FILE characters, in whole paragraphs, of held-out pages.

    Pages at the top level come first, since those in folders describe single functions; short pages
    come before long ones, so that no single page fills the file.
    """
    pages = [doc for doc in texts if doc.held_out and doc.package == HELD_OUT_LICENCE_SOURCE]
    pages.sort(key=lambda doc: ("/" in doc.path, len(doc.text)))
    text = "\n\n".join(doc.text for doc in pages)
    return text[: text.rfind("\n\n", 0, MAX_HELD_OUT_FILE)] + "\n"


def load_data(n_vocab: int) -> Data:
    texts = list(documents())
    trained = [doc.text for doc in texts if not doc.held_out]
    vocabulary = build_vocabulary(trained, n_vocab)
    held_out = token_stream([vocabulary.encode(doc.text) for doc in texts if doc.held_out])
    return Data(
        vocabulary,
        [vocabulary.encode(text) for text in trained],
        held_out,
        held_out_file(texts),
        sum(len(text.encode()) for text in trained),
    )


def bfloat16_weights(model: RWKV7) -> dict[str, Tensor]:
    return {name: value.detach().bfloat16() for name, value in model.state_dict().items()}


def save(model: RWKV7, path: Path) -> None:
    """Writes the checkpoint in one step, so that readers never see half of it."""
    partial = path.with_suffix(".partial")
    torch.save(bfloat16_weights(model), partial)
    os.replace(partial, path)


def warm_up_compiler(compiled: Callable[[Tensor], Tensor], n_vocab: int) -> None:
    """Compiles both directions for both contexts now, so that no compilation eats the schedule."""
    # Every layer and context is a variant of its own; the default limit of 8 would not hold them.
    torch._dynamo.config.cache_size_limit = 64
    for context in (SHORT_CONTEXT, LONG_CONTEXT):
        tokens = torch.randint(0, n_vocab, (TOKENS_PER_STEP // context, context))
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                logits = compiled(tokens)
            functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()


def snapshot(model: RWKV7, data: Data, path: Path) -> None:
    """Saves, and prints how good the model is by now."""
    save(model, path)
    bits = held_out_bits(model, data.vocabulary, data.held_out, SHORT_CONTEXT, SNAPSHOT_WINDOWS)
    print(f"snapshot: held-out {bits:.4f} bits per byte on {SNAPSHOT_WINDOWS} windows")
    for prompt in PROMPTS[:2]:
        print(repr(sample(model, data.vocabulary, prompt, 60, 0.5)), flush=True)


def train(model: RWKV7, data: Data, args: argparse.Namespace) -> dict[str, float]:
    """Trains until the deadline; returns steps, seconds and the last loss."""
    both = optimizers(model, args.adam_lr, args.muon_lr, args.weight_decay)
    batches = Batches(data.parts, TOKENS_PER_STEP, args.seed)
    compiled = model if args.eager else torch.compile(model, dynamic=False)
    if not args.eager:
        warm_up_compiler(compiled, args.vocab)
        model.zero_grad(set_to_none=True)
    began = last_saved = time.monotonic()
    losses: list[float] = []
    while (progress := (time.monotonic() - began) / (60 * args.minutes)) < 1.0:
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * lr_factor(progress)
        tokens, targets = batches.next(
            SHORT_CONTEXT if progress < LONG_CONTEXT_FROM else LONG_CONTEXT
        )
        with torch.autocast("cpu", torch.bfloat16):
            logits = compiled(tokens)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        if torch.isfinite(norm):
            for optimizer in both:
                optimizer.step()
        else:
            print(f"step {len(losses)}: gradient norm {norm}, step left out", flush=True)
        model.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if len(losses) % REPORT_STEPS == 0:
            elapsed = time.monotonic() - began
            print(
                f"step {len(losses)} {elapsed / 60:.1f} min, "
                f"loss {np.mean(losses[-REPORT_STEPS:]):.4f}, norm {float(norm):.2f}, "
                f"{len(losses) * TOKENS_PER_STEP / elapsed:.0f} tokens/s",
                flush=True,
            )
        if time.monotonic() - last_saved > SNAPSHOT_S:
            last_saved = time.monotonic()
            snapshot(model, data, args.out)
    seconds = time.monotonic() - began
    return {
        "minutes": round(seconds / 60, 1),
        "steps": len(losses),
        "tokens_seen": len(losses) * TOKENS_PER_STEP,
        "tokens_per_s": round(len(losses) * TOKENS_PER_STEP / seconds),
        "last_loss": round(float(np.mean(losses[-200:])), 4),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=70.0, help="wall clock for training")
    parser.add_argument("--out", type=Path, required=True, help="the .pth file to write")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--embd", type=int, default=192)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--muon-lr", type=float, default=2e-2)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="no torch.compile, no C++ compiler")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    data = load_data(args.vocab)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    data.vocabulary.write(args.out.with_suffix(".vocab.txt"))
    (args.out.parent / "heldout.txt").write_text(data.held_out_text, encoding="utf-8")
    model = RWKV7(Shape(args.vocab, args.layers, args.embd))
    n_params = sum(param.numel() for param in model.parameters())
    print(
        f"{data.n_bytes} bytes, {data.n_tokens} tokens, held out {data.held_out.size}; "
        f"{n_params} parameters",
        flush=True,
    )
    figures = train(model, data, args)
    save(model, args.out)
    # What is measured is what was written: the weights rounded to bfloat16.
    model.load_state_dict({key: value.float() for key, value in bfloat16_weights(model).items()})
    report = figures | {
        "parameters": n_params,
        "train_bytes": data.n_bytes,
        "train_tokens": data.n_tokens,
        "held_out_bits_per_byte": round(
            held_out_bits(model, data.vocabulary, data.held_out, LONG_CONTEXT), 4
        ),
        "largest_weight": max(float(value.abs().max()) for value in model.state_dict().values()),
        "packages": {source.package: [source.version(), source.licence] for source in SOURCES},
    }
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    for prompt in PROMPTS:
        print(repr(sample(model, data.vocabulary, prompt, 100, 0.5)), flush=True)


if __name__ == "__main__":
    main()
