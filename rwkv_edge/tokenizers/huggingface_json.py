"""A Hugging Face `tokenizer.json`, checked and made ready before the library sees it.

The library is compiled Rust. It answers most damage with an exception; to merges that do not exist
and damaged tables it panics, which prints to stderr. Those are found here first. What cannot be
bounded: a regular expression in the file may be made to take very long on some texts.
"""

import base64
import binascii
import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rwkv_edge.errors import FormatError, UnsupportedModelError, shown
from rwkv_edge.tokenizers.charsmap import check_charsmap

Json = dict[str, Any]

# GPT-NeoX's file takes 42 bytes an id, the largest known 130.
BYTES_PER_ID = 256
SPARE_BYTES = 1 << 20
# What JSON becomes in memory may take 20 times its size: that much for each value, and more for
# one that has a name. Bounded before it is parsed; GPT-NeoX's 100,000 texts come to 12 MB.
VALUE_BYTES = 64
NAME_BYTES = 110
MAX_PARSED_BYTES = 40 << 20
# The library frees a piece of a Unigram letter by letter, each inside the other: one of 200,000
# ends the process. World's longest has 128.
MAX_PIECE_CHARS = 1024
MAX_SHOWN_ID = 1 << 64
# Normalizers in a sequence in a sequence: 8 are seen.
MAX_DEPTH = 32
# How many times longer replacing may make a text: each is a chance to fill the memory.
MAX_GROWTH = 64
SPACE_MARK = "▁"
MODELS = ("BPE", "Unigram")
# What a component calls the list of those that it is made of.
SEQUENCES = ("normalizers", "pretokenizers", "decoders")
SPACES_DECODERS = {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}


@dataclass(frozen=True)
class Scheme:
    """How the texts of ids are spelled.

    is_byte_level: in GPT-2's alphabet of bytes; else in characters, with ▁ for a space.
    drops_first_space: a decoded text loses the space that encoding put before it.
    """

    is_byte_level: bool
    drops_first_space: bool


def parse_tokenizer_json(text: str, n_vocab: int) -> Json:
    """The content of a file for a model of n_vocab ids, checked.

    Raises FormatError, UnsupportedModelError; the messages do not name the file.
    """
    limit = SPARE_BYTES + BYTES_PER_ID * n_vocab
    if len(text) > limit:
        raise FormatError(
            f"its tokenizer.json holds {len(text):,} characters; at most {limit:,} are read for a "
            f"model of {n_vocab:,} ids"
        )
    if parsed_bytes(text) > MAX_PARSED_BYTES + 2 * len(text):
        raise FormatError("its tokenizer.json holds more values than any tokenizer of its size")
    try:
        content = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"its tokenizer.json is damaged: {first_line(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise FormatError("its tokenizer.json holds no tokenizer: there is no object 'model'")
    check_depth(content)
    check_model(content["model"], n_vocab)
    check_added_tokens(content, n_vocab)
    check_normalizers(content)
    return content


def parsed_bytes(text: str) -> int:
    """About what the values of a JSON text take in memory; signs within texts count, too."""
    n_values = sum(map(text.count, "[{,"))
    return n_values * VALUE_BYTES + text.count(":") * NAME_BYTES


def refuse_constant(name: str) -> None:
    """NaN and Infinity are no JSON, but Python reads them."""
    raise ValueError(f"{name} is no number")


def first_line(error: BaseException) -> str:
    """What a library says, on one line and not at length: it may repeat what is in the file."""
    return shown((str(error).splitlines() or [type(error).__name__])[0])


def check_depth(content: Json) -> None:
    """Raise FormatError for nesting that no tokenizer has; vocabulary and merges are for others."""
    model = {k: v for k, v in content["model"].items() if k not in ("vocab", "merges")}
    level: list[Any] = list({**content, "model": model}.values())
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
        level = deeper
    if level:
        raise FormatError(f"its tokenizer.json nests deeper than {MAX_DEPTH} levels")


def check_model(model: Json, n_vocab: int) -> None:
    """Vocabulary and merges; raises FormatError, UnsupportedModelError."""
    kind = model.get("type")
    if kind not in MODELS:
        raise UnsupportedModelError(
            f"its tokenizer.json is of type {kind!r:.40}; only {' and '.join(MODELS)} can be used"
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedModelError(f"its tokenizer.json has a {name}, which is not known here")
    vocabulary = model.get("vocab")
    if kind == "BPE":
        if not isinstance(vocabulary, dict):
            raise FormatError("its tokenizer.json has no vocabulary")
        check_ids(vocabulary, n_vocab)
        check_lengths(vocabulary)
        check_merges(model.get("merges"), vocabulary)
        return
    if not isinstance(vocabulary, list) or not vocabulary:
        raise FormatError("its tokenizer.json has no vocabulary")
    if len(vocabulary) > n_vocab:
        raise too_many(len(vocabulary) - 1, n_vocab)
    for token, entry in enumerate(vocabulary):
        match entry:
            case [str(), float() | int()]:
                continue
        raise FormatError(f"id {token} in its tokenizer.json is not a text with a number")
    if len({entry[0] for entry in vocabulary}) < len(vocabulary):
        raise FormatError("its tokenizer.json holds a text twice")
    check_lengths(entry[0] for entry in vocabulary)


def check_lengths(pieces: Iterable[str]) -> None:
    """Raise FormatError for a piece that is longer than any tokenizer's."""
    longest = max(map(len, pieces), default=0)
    if longest > MAX_PIECE_CHARS:
        raise FormatError(
            f"its tokenizer.json holds a piece of {longest:,} characters; at most "
            f"{MAX_PIECE_CHARS:,} are read"
        )


def check_ids(vocabulary: Json, n_vocab: int) -> None:
    """Every text has an id of its own, of those that the model has."""
    ids = list(vocabulary.values())
    # A bool is an int in Python.
    if not {type(token) for token in ids} <= {int} or min(ids, default=0) < 0:
        raise FormatError("its tokenizer.json holds an id that is no number from 0 on")
    if len(set(ids)) < len(ids):
        raise FormatError("its tokenizer.json holds an id twice")
    if max(ids, default=0) >= n_vocab:
        raise too_many(max(ids), n_vocab)


def too_many(largest: int, n_vocab: int) -> FormatError:
    """The error for a tokenizer of a larger model."""
    # A number may have thousands of digits.
    found = f"{largest:,}" if largest < MAX_SHOWN_ID else "numbers past 64 bits"
    return FormatError(
        f"its tokenizer.json has ids up to {found}; the model has embeddings for {n_vocab:,} "
        "ids; it belongs to another model"
    )


def check_merges(merges: object, vocabulary: Json) -> None:
    """Both parts of a merge, and what they become, are in the vocabulary."""
    if not isinstance(merges, list):
        raise FormatError("its tokenizer.json has no list of merges")
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        match parts:
            case [str() as first, str() as second] if first and second:
                if first in vocabulary and second in vocabulary and first + second in vocabulary:
                    continue
        raise FormatError(f"merge {number:,} in its tokenizer.json joins what is not there")


def check_added_tokens(content: Json, n_vocab: int) -> None:
    """Their texts and ids; that the ids are the library's is seen once it is loaded."""
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > n_vocab:
        raise FormatError("its tokenizer.json has no list of added tokens that fits the model")
    for entry in added:
        match entry:
            case {"id": int() as token, "content": str() as text} if text and token >= 0:
                if token >= n_vocab:
                    raise too_many(token, n_vocab)
                continue
        raise FormatError("its tokenizer.json holds an added token without text or id")
    check_lengths(entry["content"] for entry in added)


def components(part: object) -> Iterator[Json]:
    """A normalizer, pre-tokenizer or decoder, or those that a sequence is made of."""
    if isinstance(part, dict):
        yield part
        for name in SEQUENCES:
            children = part.get(name)
            for child in children if isinstance(children, list) else ():
                yield from components(child)


def check_normalizers(content: Json) -> None:
    """Tables that stay inside themselves, and texts that do not grow without end."""
    growth = 1.0
    for part in ("normalizer", "pre_tokenizer"):
        for component in components(content.get(part)):
            if component.get("type") == "Precompiled":
                check_precompiled(component.get("precompiled_charsmap"))
            growth *= growth_of(component)
    if growth > MAX_GROWTH:
        raise FormatError(f"its tokenizer.json makes a text {growth:,.0f} times longer")


def check_precompiled(table: object) -> None:
    """The table of a normalizer as base64; raises FormatError."""
    if table is None:
        return
    try:
        raw = base64.b64decode(table, validate=True) if isinstance(table, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if not raw:
        raise FormatError("its normalizer's table is damaged: no base64")
    check_charsmap(raw)


def growth_of(component: Json) -> float:
    """How many times longer a component may make a text."""
    content = component.get("content")
    if component.get("type") == "Replace" and isinstance(content, str):
        pattern = component.get("pattern")
        replaced = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(replaced, str) and replaced:
            return max(1.0, len(content) / len(replaced))
        # A regular expression may match everywhere, between any two characters too.
        return len(content) + 1.0
    prepended = component.get("prepend")
    return max(1.0, float(len(prepended))) if isinstance(prepended, str) else 1.0


def scheme_of(content: Json) -> Scheme:
    """How the file spells its texts; raises UnsupportedModelError."""
    decoders = list(components(content.get("decoder")))
    names = {str(decoder.get("type")) for decoder in decoders} - {"Sequence"}
    if names == {"ByteLevel"}:
        return Scheme(is_byte_level=True, drops_first_space=False)
    if not names or not names <= SPACES_DECODERS:
        found = shown(", ".join(sorted(names)) or "missing")
        raise UnsupportedModelError(
            f"the decoder in its tokenizer.json is {found}; known are ByteLevel and those of "
            "sentencepiece"
        )
    for component in [*decoders, *components(content.get("pre_tokenizer"))]:
        if component.get("type") == "Metaspace" and component.get("replacement") != SPACE_MARK:
            raise UnsupportedModelError("its tokenizer.json writes spaces otherwise than as ▁")
    return Scheme(is_byte_level=False, drops_first_space=any(map(drops_space, decoders)))


def drops_space(decoder: Json) -> bool:
    """Does this decoder take away the first space of a text?"""
    if decoder.get("type") == "Metaspace":
        return adds_prefix(decoder)
    return decoder.get("type") == "Strip" and bool(decoder.get("start"))


def adds_prefix(metaspace: Json) -> bool:
    """Does this Metaspace put a space before a text? Older files say it in another way."""
    scheme = metaspace.get("prepend_scheme")
    return bool(metaspace.get("add_prefix_space", True)) if scheme is None else scheme != "never"


def prepared_json(content: Json, control: set[str]) -> str:
    """The file as the library gets it: what only encodes a text, always in the same way.

    control: added tokens that are no text, whatever the file says of them.
    """
    prepared = {**content, "truncation": None, "padding": None, "post_processor": None}
    prepared["decoder"] = None
    # Dropout gives other ids each time.
    prepared["model"] = {**content["model"], "dropout": None}
    prepared["added_tokens"] = [
        {**token, "special": bool(token.get("special")) or token["content"] in control}
        for token in content.get("added_tokens") or []
    ]
    return json.dumps(prepared)


def content_that_goes_on(content: Json) -> Json:
    """The same for text that goes on: nothing is put before it or taken off its ends."""
    changed = {part: without_prefix(content.get(part)) for part in ("normalizer", "pre_tokenizer")}
    return content | {part: value for part, value in changed.items() if part in content}


def without_prefix(part: object) -> object:
    """A normalizer or pre-tokenizer that leaves the ends of a text alone."""
    if not isinstance(part, dict):
        return part
    changed = copy.deepcopy(part)
    for component in components(changed):
        for name in SEQUENCES:
            if isinstance(component.get(name), list):
                component[name] = [c for c in component[name] if not is_prepend(c)]
        if component.get("type") in ("ByteLevel", "Metaspace") and "add_prefix_space" in component:
            component["add_prefix_space"] = False
        if component.get("type") == "Metaspace":
            component["prepend_scheme"] = "never"
        if component.get("type") == "Strip":
            component |= {"strip_left": False, "strip_right": False}
    return None if is_prepend(changed) else changed


def is_prepend(component: object) -> bool:
    """Is this the normalizer that puts something before every text?"""
    return isinstance(component, dict) and component.get("type") == "Prepend"
