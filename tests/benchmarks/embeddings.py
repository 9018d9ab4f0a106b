"""Which part of a state makes the best sentence embedding: the tables of docs/embeddings.md.

Usage: python tests/benchmarks/embeddings.py [--type F32]

Three tests on the built-in model. Paraphrases: of 64 sentences, is the one that says the same the
nearest? Topics: is a docstring of Python's library nearer to those of its own module than to those
of others? Documents: the same for paragraphs of the held-out text. Takes some minutes.
"""

import argparse
import importlib
import inspect
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rwkv_edge import Model
from rwkv_edge.backend import StateArrays
from rwkv_edge.builtin import checkpoint_path, heldout_path
from rwkv_edge.converters.convert import convert
from rwkv_edge.embedding import PROMPT

Array = npt.NDArray[np.float64]

PARAPHRASES = Path(__file__).with_name("paraphrases.txt")
MODULES = """
argparse asyncio.events base64 bisect calendar codecs collections configparser contextlib csv
datetime decimal difflib doctest email.message fractions ftplib functools gettext gzip heapq
html.parser http.client http.cookiejar imaplib inspect ipaddress locale logging mailbox mimetypes
optparse os pathlib pdb pickle platform poplib pprint queue random sched shelve shlex shutil smtplib
socket socketserver ssl statistics string subprocess tarfile tempfile textwrap threading timeit
tokenize trace tracemalloc types unittest.mock urllib.request uuid warnings wave weakref
xml.dom.minidom xml.sax.handler zipfile
"""
PAGE_END = "This page last modified on"
# A passage has this many characters at least, and is cut after that many.
MIN_CHARACTERS, MAX_CHARACTERS = 120, 300
# Passages that one module or document gives at least, and at most.
MIN_PASSAGES, MAX_PASSAGES = 3, 12
# Tokens between two looks at the state, for what is pooled over some tokens only.
STEPS = (8, 16)
PROMPTS = (
    PROMPT,
    "\n\nThis is about",
    " This is about",
    "\n\nThis section describes the",
    "\n\nIn other words, this is about",
    "\n\nThis means",
    "\n\nIn short,",
    "\n\nSummary:",
    "\n\nSee also:",
    "\n\nThe topic is",
    "\n\n",
    "\n",
)
CHOSEN = f"ffn_x 3 after {PROMPT!r}"
N_RESAMPLES = 2000
# Cosines that differ by rounding alone: of sentences that end in the same token, for example.
SAME = 1e-9


@dataclass(frozen=True)
class Reading:
    """What one text left. att_x, ffn_x: (n_tokens, n_layer, n_embd); wkv: (n_layer, ...)."""

    tokens: list[int]
    att_x: Array
    ffn_x: Array
    wkv: Array
    wkv_mean: Array
    after: dict[str, StateArrays]


@dataclass(frozen=True)
class Texts:
    """Sentences, each followed by its paraphrase; passages with the number of their origin."""

    sentences: list[str]
    topics: list[str]
    topic_of: npt.NDArray[np.int64]
    documents: list[str]
    document_of: npt.NDArray[np.int64]

    @property
    def all(self) -> list[str]:
        return self.sentences + self.topics + self.documents


def docstrings_of(module_name: str) -> list[str]:
    """Those of its own functions, classes and methods."""
    things: list[object] = []
    for thing in vars(importlib.import_module(module_name)).values():
        if getattr(thing, "__module__", None) == module_name:
            things.append(thing)
            things += vars(thing).values() if inspect.isclass(thing) else []
    documented = [t for t in things if inspect.isclass(t) or inspect.isfunction(t)]
    return [thing.__doc__ for thing in documented if isinstance(thing.__doc__, str)]


def chosen_passages(candidates: list[str]) -> list[str]:
    """Long enough, cut, in one line; no two that begin alike."""
    lines = [" ".join(text.split()) for text in candidates]
    by_beginning = {
        line[:60]: line[:MAX_CHARACTERS] for line in lines if len(line) >= MIN_CHARACTERS
    }
    return list(by_beginning.values())[:MAX_PASSAGES]


def labelled(groups: list[list[str]]) -> tuple[list[str], npt.NDArray[np.int64]]:
    groups = [group for group in groups if len(group) >= MIN_PASSAGES]
    labels = [i for i, group in enumerate(groups) for _ in group]
    return [text for group in groups for text in group], np.array(labels)


def read_texts() -> Texts:
    lines = PARAPHRASES.read_text(encoding="utf-8").splitlines()
    sentences = [line for line in lines if line and not line.startswith("#")]
    topics = [chosen_passages(docstrings_of(name)) for name in MODULES.split()]
    pages = heldout_path().read_text(encoding="utf-8").split(PAGE_END)
    documents = [chosen_passages(page.split("\n\n")) for page in pages]
    return Texts(sentences, *labelled(topics), *labelled(documents))


def read(model: Model, text: str) -> Reading:
    """Run a text token by token, and then each prompt after it."""
    tokens = model.tokenizer.encode(text)
    state = model.new_state()
    seen = []
    for token in tokens:
        model.forward([token], state)
        seen.append(state.to_arrays())
    copies = [state.clone() for _ in PROMPTS]
    model.forward_batch([model.tokenizer.encode(prompt) for prompt in PROMPTS], copies)
    some = [*seen[STEPS[-1] - 1 :: STEPS[-1]], seen[-1]]
    return Reading(
        tokens=list(tokens),
        att_x=np.stack([arrays["att_x"] for arrays in seen]).astype(np.float64),
        ffn_x=np.stack([arrays["ffn_x"] for arrays in seen]).astype(np.float64),
        wkv=seen[-1]["wkv"].astype(np.float64),
        wkv_mean=np.mean([arrays["wkv"] for arrays in some], axis=0, dtype=np.float64),
        after={p: copy.to_arrays() for p, copy in zip(PROMPTS, copies, strict=True)},
    )


def candidates(readings: list[Reading], n_vocab: int) -> dict[str, Array]:
    """Each way to embed, by name: (texts, any length)."""

    def each(of: Callable[[Reading], Array]) -> Array:
        return np.stack([of(reading).reshape(-1) for reading in readings])

    counts = each(lambda r: np.bincount(r.tokens, minlength=n_vocab).astype(np.float64))
    rarity = np.log((len(counts) + 1) / ((counts > 0).sum(axis=0) + 1))
    found = {"(words) token counts": counts, "(words) tf-idf of tokens": counts * rarity}
    n_layer, last = readings[0].wkv.shape[0], readings[0].wkv.shape[0] - 1
    for name in ("att_x", "ffn_x"):
        for i in range(n_layer):
            found[f"{name} {i}, last token"] = each(lambda r, n=name, i=i: getattr(r, n)[-1, i])
    for name in ("att_x", "ffn_x"):
        for i in range(n_layer):
            found[f"{name} {i}, mean of tokens"] = each(
                lambda r, n=name, i=i: getattr(r, n)[:, i].mean(axis=0)
            )
    for step in STEPS:
        found[f"ffn_x {last}, mean of every {step}th token and the last"] = each(
            lambda r, s=step: np.vstack([r.ffn_x[s - 1 :: s, last], r.ffn_x[-1:, last]]).mean(0)
        )
    found["ffn_x, mean of layers, last token"] = each(lambda r: r.ffn_x[-1].mean(axis=0))
    found["ffn_x, mean of layers and tokens"] = each(lambda r: r.ffn_x.mean(axis=(0, 1)))
    for i in range(n_layer):
        found[f"wkv {i}"] = each(lambda r, i=i: r.wkv[i])
    matrices = found[f"wkv {last}"]
    found["wkv, all layers"] = each(lambda r: r.wkv)
    found[f"wkv {last}, mean of every {STEPS[-1]}th token and the last"] = each(
        lambda r: r.wkv_mean[last]
    )
    found[f"wkv {last}, each head of length 1"] = each(
        lambda r: r.wkv[last] / np.linalg.norm(r.wkv[last], axis=(1, 2), keepdims=True)
    )
    found[f"wkv {last}, sum over keys"] = each(lambda r: r.wkv[last].sum(axis=-1))
    found[f"wkv {last}, length of each value's row"] = each(
        lambda r: np.linalg.norm(r.wkv[last], axis=-1)
    )
    found[f"wkv {last}, length of each key's column"] = each(
        lambda r: np.linalg.norm(r.wkv[last], axis=-2)
    )
    n_embd = readings[0].ffn_x.shape[-1]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (matrices.shape[1], n_embd))
    found[f"wkv {last}, n_embd random projections"] = matrices @ signs
    for prompt in PROMPTS:
        found[f"ffn_x {last} after {prompt!r}"] = each(
            lambda r, p=prompt: r.after[p]["ffn_x"][last].astype(np.float64)
        )
    found[f"ffn_x {last}, mean of the first 10 prompts"] = sum(
        of_length_1(found[f"ffn_x {last} after {prompt!r}"]) for prompt in PROMPTS[:10]
    )
    found[f"ffn_x {last - 1} after {PROMPT!r}"] = each(
        lambda r: r.after[PROMPT]["ffn_x"][last - 1].astype(np.float64)
    )
    found[f"att_x {last} after {PROMPT!r}"] = each(
        lambda r: r.after[PROMPT]["att_x"][last].astype(np.float64)
    )
    found[f"wkv {last} after {PROMPT!r}"] = each(
        lambda r: r.after[PROMPT]["wkv"][last].astype(np.float64)
    )
    found[f"{CHOSEN}, beside wkv {last}"] = np.hstack(
        [of_length_1(found[CHOSEN]), of_length_1(matrices)]
    )
    return found


def of_length_1(rows: Array) -> Array:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def reciprocal_ranks(rows: Array) -> Array:
    """(pairs,): 1 / the place of the paraphrase among all, mean of both directions."""
    rows = of_length_1(rows)
    similar = rows[0::2] @ rows[1::2].T
    return (of_own(similar) + of_own(similar.T)) / 2


def of_own(similar: Array) -> Array:
    """1 / the place of the diagonal in each row; in the middle of those that it ties with."""
    above = similar - np.diag(similar)[:, None]
    n_nearer = (above > SAME).sum(axis=1)
    n_tied = (np.abs(above) <= SAME).sum(axis=1) - 1
    return 1 / (1 + n_nearer + n_tied / 2)


def areas(rows: Array, labels: npt.NDArray[np.int64]) -> Array:
    """(passages,): how often one of its own origin is nearer to it than one of another (AUC)."""
    rows = of_length_1(rows)
    similar = rows @ rows.T
    found = []
    for i, label in enumerate(labels):
        is_own = labels == label
        is_own[i] = False
        nearer = similar[i, is_own][:, None] - similar[i, labels != label]
        found.append((nearer > SAME).mean() + 0.5 * (np.abs(nearer) <= SAME).mean())
    return np.array(found)


@dataclass(frozen=True)
class Score:
    """Means of each test, resampled: (1 + N_RESAMPLES, 3), the first of them is what was found."""

    samples: Array

    @property
    def overall(self) -> Array:
        return self.samples.mean(axis=1)


def score(rows: Array, texts: Texts, only: int | None = None) -> Score:
    """Score embeddings of all texts; only: 0 or 1 for one half of the items."""
    n, m = len(texts.sentences), len(texts.sentences) + len(texts.topics)
    topics, documents = areas(rows[n:m], texts.topic_of), areas(rows[m:], texts.document_of)
    # Passages of one module are no independent evidence: resample modules.
    by_module = [topics[texts.topic_of == i].mean() for i in range(texts.topic_of.max() + 1)]
    tests = [reciprocal_ranks(rows[:n]), np.array(by_module), documents]
    # The same items are drawn for every way to embed, so that differences can be taken.
    random = np.random.default_rng(1)
    samples = []
    for values in tests:
        kept = values if only is None else values[only::2]
        drawn = random.integers(0, kept.size, (N_RESAMPLES, kept.size))
        samples.append(np.concatenate([[kept.mean()], kept[drawn].mean(axis=1)]))
    return Score(np.stack(samples, axis=1))


def interval(samples: Array) -> str:
    low, high = np.percentile(samples[1:], [2.5, 97.5])
    return f"{samples[0]:.2f} ({low:.2f} to {high:.2f})"


def table(found: dict[str, Array], texts: Texts) -> list[str]:
    """Markdown: each way's three scores and how much worse than the chosen one it is."""
    chosen = score(found[CHOSEN], texts)
    lines = [
        "| embedding | numbers | paraphrases | topics | documents | overall, against the chosen |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        scored = score(rows, texts)
        tests = " | ".join(interval(scored.samples[:, i]) for i in range(3))
        difference = interval(scored.overall - chosen.overall) if name != CHOSEN else "chosen"
        lines.append(f"| {name} | {rows.shape[1]:,} | {tests} | {difference} |")
    return lines


def shifted(rows: Array, texts: Texts, by: Callable[[Array, Array], Array]) -> Array:
    """Passages moved by what the sentences say of all embeddings, and the other way round."""
    n = len(texts.sentences)
    return np.vstack([by(rows[:n], rows[n:]), by(rows[n:], rows[:n])])


def nearer_to_the_latter(model: Model, passages: list[str]) -> float:
    """The share of joined pairs whose embedding is nearer to that of the second one."""
    random = np.random.default_rng(0)
    firsts, seconds = random.permutation(len(passages))[:200].reshape(2, 100)
    joined = model.embed(
        [f"{passages[i]}\n\n{passages[j]}" for i, j in zip(firsts, seconds, strict=True)]
    )
    one, two = (model.embed([passages[i] for i in chosen]) for chosen in (firsts, seconds))
    return float(((joined * two).sum(axis=1) > (joined * one).sum(axis=1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare sentence embeddings out of the state.")
    parser.add_argument("--type", default="F32", help="weight type; default: %(default)s")
    chosen_type = parser.parse_args().type
    texts = read_texts()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        convert(checkpoint_path(), path, chosen_type)
        with Model.load(path, threads=1) as model:
            readings = [read(model, text) for text in texts.all]
            found = candidates(readings, model.hyperparameters.n_vocab)
            latter = nearer_to_the_latter(model, texts.topics)
    rows = found[CHOSEN]
    found[f"{CHOSEN}, less the mean of other texts"] = shifted(
        rows, texts, lambda a, b: a - b.mean(axis=0)
    )
    found[f"{CHOSEN}, the same over each channel's deviation"] = shifted(
        rows, texts, lambda a, b: (a - b.mean(axis=0)) / b.std(axis=0)
    )
    print(
        f"{chosen_type}: {len(texts.sentences) // 2} pairs; {len(texts.topics)} passages of "
        f"{texts.topic_of.max() + 1} modules; {len(texts.documents)} of "
        f"{texts.document_of.max() + 1} documents\n"
    )
    print("\n".join(table(found, texts)))
    ways = [f"ffn_x {len(readings[0].wkv) - 1} after {prompt!r}" for prompt in PROMPTS]
    halves = [{way: score(found[way], texts, half).overall[0] for way in ways} for half in (0, 1)]
    for half, name in ((0, "even"), (1, "odd")):
        best = max(halves[half], key=lambda way: halves[half][way])
        other = halves[1 - half]
        place = 1 + sum(value > other[best] for value in other.values())
        print(
            f"\nBest prompt by the {name} items: {best}; "
            f"by the others, number {place} of {len(ways)}."
        )
    n = len(texts.sentences)
    similar = of_length_1(rows[:n])[0::2] @ of_length_1(rows[:n])[1::2].T
    first = np.mean([(m.argmax(axis=1) == np.arange(len(m))).mean() for m in (similar, similar.T)])
    off = similar[~np.eye(len(similar), dtype=bool)]
    print(
        f"\nCosines of {CHOSEN}: paraphrases {np.diag(similar).mean():.2f}, "
        f"other sentences {off.mean():.2f} (5 % above {np.percentile(off, 95):.2f}).\n"
        f"A paraphrase is the very first for {100 * first:.0f} % of the sentences.\n"
        f"Of two passages joined, the latter is nearer to the whole in {100 * latter:.0f} %."
    )


if __name__ == "__main__":
    main()
