"""Does a long document make a model's numbers drift? The numba engine beside float64.

Usage: OPENBLAS_NUM_THREADS=1 python tests/benchmarks/drift.py MODEL.gguf [--tokens 1000000]
       [--text FILE] [--json FILE]

(The matrices are small: more threads of numpy would only wait for each other.)

Both read the same tokens from the same weights: the engine as it always does, and a recurrence in
float64 that is stated here once more and begins anew at the first token. After every 256 tokens
their logits are compared. A row of the table holds the tokens since the row before: the largest and
the median difference of any logit, in terms of the float64 logits' spread (largest minus smallest),
how often both have the same likeliest token, and the resident memory of this process.
"""

import argparse
import contextlib
import datetime
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from rwkv_edge import Model
from rwkv_edge.apps.benchmark import describe_machine, describe_model, describe_versions
from rwkv_edge.apps.fresh_process import resident_bytes
from rwkv_edge.apps.machine import inspect_machine
from rwkv_edge.builtin import heldout_path
from rwkv_edge.hyperparameters import GROUP_NORM_EPS, LAYER_NORM_EPS
from rwkv_edge.model_file import ModelFile

Float64Array = npt.NDArray[np.float64]

Row = dict[str, Any]

# What `tests/benchmarks/draw.py` knows a report by.
FORMAT = 1
KIND = "drift"
BLOCK_TOKENS = 256
# Rows of the table, by tokens: 1, 2 and 5 of each power of ten.
ROWS = [step * 10**power for power in range(3, 9) for step in (1, 2, 5)]


@numba.njit
def recurrence(r, w, k, v, a, b, S, y):  # type: ignore[no-untyped-def]
    """S = S diag(w) + (S a) b^T + v k^T; y = S r. All (T, H, N) but S (H, value, key)."""
    for t in range(r.shape[0]):
        for h in range(r.shape[1]):
            for i in range(S.shape[1]):
                row = S[h, i]
                sa = 0.0
                for j in range(row.size):
                    sa += row[j] * a[t, h, j]
                total = 0.0
                for j in range(row.size):
                    row[j] = row[j] * w[t, h, j] + sa * b[t, h, j] + v[t, h, i] * k[t, h, j]
                    total += row[j] * r[t, h, j]
                y[t, h, i] = total


def normalized(x: Float64Array, eps: float) -> Float64Array:
    """The last axis to mean 0 and variance 1."""
    centred = x - x.mean(axis=-1, keepdims=True)
    y: Float64Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return y


def sigmoid(x: Float64Array) -> Float64Array:
    y: Float64Array = 1 / (1 + np.exp(-x))
    return y


class Float64Rwkv7:
    """RWKV-7 in float64, many tokens at a time; the state is its own."""

    def __init__(self, path: Path) -> None:
        file = ModelFile(path)
        self.hp = file.hyperparameters
        if self.hp.version != "7":
            raise SystemExit(f"{path}: is RWKV-{self.hp.version}; the recurrence here is RWKV-7's")
        self.weights = {
            name: tensor.decode().astype(np.float64) for name, tensor in file.gguf.tensors.items()
        }
        file.close()
        L, H, N = self.hp.n_layer, self.hp.n_head, self.hp.head_size
        self.att_x, self.ffn_x = np.zeros((2, L, self.hp.n_embd))
        self.S = np.zeros((L, H, N, N))

    def norm(self, x: Float64Array, name: str) -> Float64Array:
        w = self.weights
        return normalized(x, LAYER_NORM_EPS) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def forward(self, tokens: list[int]) -> Float64Array:
        """(n_vocab,): the logits after the last token."""
        x = self.norm(self.weights["token_embd.weight"][tokens], "token_embd_norm")
        v_first: Float64Array | None = None
        for layer in range(self.hp.n_layer):
            out, v_first = self.time_mix(layer, self.norm(x, f"blk.{layer}.attn_norm"), v_first)
            x = x + out
            x = x + self.channel_mix(layer, self.norm(x, f"blk.{layer}.attn_norm_2"))
        logits: Float64Array = self.weights["output.weight"] @ self.norm(x[-1], "output_norm")
        return logits

    def time_mix(
        self, layer: int, x: Float64Array, v_first: Float64Array | None
    ) -> tuple[Float64Array, Float64Array]:
        def p(name: str) -> Float64Array:
            return self.weights[f"blk.{layer}.time_mix_{name}.weight"]

        def heads(z: Float64Array) -> Float64Array:
            return np.ascontiguousarray(z.reshape(len(x), self.hp.n_head, self.hp.head_size))

        before = np.vstack([self.att_x[layer], x[:-1]])
        self.att_x[layer] = x[-1]
        mixes = p("lerp_fused").reshape(6, -1)
        x_r, x_w, x_k, x_v, x_a, x_g = (x + (before - x) * mu for mu in mixes)
        r, k, v = x_r @ p("receptance").T, x_k @ p("key").T, x_v @ p("value").T
        w = np.exp(-np.exp(-0.5) * sigmoid(p("w0") + np.tanh(x_w @ p("w1").T) @ p("w2").T))
        a = sigmoid(p("a0") + x_a @ p("a1").T @ p("a2").T)
        g = sigmoid(x_g @ p("g1").T) @ p("g2").T
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * sigmoid(p("v0") + x_v @ p("v1").T @ p("v2").T)
        kk = heads(k * p("k_k"))
        kk = kk / np.maximum(np.sqrt((kk**2).sum(axis=-1, keepdims=True)), 1e-12)
        k = k * (1 + (a - 1) * p("k_a"))
        r, w, k, v, a = map(heads, (r, w, k, v, a))
        y = np.empty_like(r)
        recurrence(r, w, k, v, -kk, kk * a, self.S[layer], y)
        r_k = p("r_k").reshape(self.hp.n_head, self.hp.head_size)
        bonus = (r * k * r_k).sum(axis=-1, keepdims=True) * v
        bias = self.weights[f"blk.{layer}.time_mix_ln.bias"]
        normed = normalized(y, GROUP_NORM_EPS).reshape(x.shape) * p("ln") + bias
        return ((normed + bonus.reshape(x.shape)) * g) @ p("output").T, v_first

    def channel_mix(self, layer: int, x: Float64Array) -> Float64Array:
        def p(name: str) -> Float64Array:
            return self.weights[f"blk.{layer}.channel_mix_{name}.weight"]

        before = np.vstack([self.ffn_x[layer], x[:-1]])
        self.ffn_x[layer] = x[-1]
        x_k = x + (before - x) * p("lerp_k").reshape(-1)
        out: Float64Array = np.maximum(x_k @ p("key").T, 0) ** 2 @ p("value").T
        return out


def paragraphs(text: bytes, seed: int) -> Iterator[bytes]:
    """A text without end: the paragraphs of this one in another order each time."""
    parts = text.split(b"\n\n")
    chance = random.Random(seed)
    while True:
        chance.shuffle(parts)
        yield b"\n\n".join([*parts, b""])


def blocks_of(model: Model, text: bytes, n_tokens: int) -> Iterator[list[int]]:
    """Its tokens, 256 at a time; the last may be fewer."""
    pending: list[int] = []
    for section in model.tokenizer.encode_stream(paragraphs(text, 0)):
        pending += section.tokens
        while len(pending) >= min(BLOCK_TOKENS, n_tokens):
            size = min(BLOCK_TOKENS, n_tokens)
            yield pending[:size]
            del pending[:size]
            n_tokens -= size
            if not n_tokens:
                return


def compare(path: Path, text: bytes, n_tokens: int, backend: str) -> Iterator[Row]:
    """The rows of the table, as they are found."""
    exact = Float64Rwkv7(path)
    differences: list[float] = []
    n_same = done = 0
    began = time.perf_counter()
    ends = iter([row for row in ROWS if row < n_tokens] + [n_tokens])
    end = next(ends)
    with Model.load(path, backend) as model:
        state = model.new_state()
        for tokens in blocks_of(model, text, n_tokens):
            found, _ = model.forward(tokens, state)
            wanted = exact.forward(tokens)
            done += len(tokens)
            differences.append(float(np.abs(found - wanted).max() / np.ptp(wanted)))
            n_same += int(found.argmax() == wanted.argmax())
            if done >= end:
                yield {
                    "n_tokens": done,
                    "largest": max(differences),
                    "median": float(np.median(differences)),
                    "same_best": n_same / len(differences),
                    "resident": resident_bytes().steady,
                    "seconds": time.perf_counter() - began,
                }
                differences, n_same = [], 0
                end = next(ends, n_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a long run with float64.")
    parser.add_argument("model", type=Path, help="a GGUF of RWKV-7; F32 shows arithmetic alone")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--text", type=Path, default=heldout_path())
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    args = parser.parse_args()
    machine = inspect_machine()
    with contextlib.closing(ModelFile(args.model)) as file:
        report: dict[str, Any] = {
            "format": FORMAT,
            "kind": KIND,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": describe_machine(machine),
            "versions": describe_versions(machine),
            "model": describe_model(file),
            "backend": args.backend,
            "rows": [],
        }
    print(f"{'tokens':>10} {'largest':>9} {'median':>9} {'same best':>9} {'MB':>7} {'s':>6}")
    for row in compare(args.model, args.text.read_bytes(), args.tokens, args.backend):
        print(
            f"{row['n_tokens']:>10,} {row['largest']:>9.2e} {row['median']:>9.2e} "
            f"{row['same_best']:>9.4f} {(row['resident'] or 0) / 1e6:>7.2f} {row['seconds']:>6.0f}",
            flush=True,
        )
        report["rows"].append(row)
        if args.json:
            # After each, so that what is stopped has told what it found.
            args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
