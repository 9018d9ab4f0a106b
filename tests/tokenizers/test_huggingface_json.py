"""Files that are damaged or made to harm are refused before the library, which may panic."""

import base64
import json
import tracemalloc
from typing import Any

import pytest

from rwkv_edge.errors import FormatError, RwkvEdgeError, UnsupportedModelError
from rwkv_edge.tokenizers import HuggingFaceTokenizer
from rwkv_edge.tokenizers.huggingface_json import (
    BYTES_PER_ID,
    MAX_PIECE_CHARS,
    SPARE_BYTES,
    parse_tokenizer_json,
    parsed_bytes,
    scheme_of,
)

pytest.importorskip("tokenizers")
from tests.tokenizers.foreign_files import (
    changed,
    neox_json,
    spaces_bpe_json,
    unigram_json,
)

N_VOCAB = 1000
Json = dict[str, Any]


def small(**changes: Any) -> str:
    """A valid file of four ids, changed."""
    content: Json = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": ["a b"]},
    }
    return changed(json.dumps(content), **changes)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def sequence(*components: Json) -> Json:
    return {"type": "Sequence", "normalizers": list(components)}


def replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


ADDED = {
    "id": 4, "content": "x", "special": False, "single_word": False, "lstrip": False,
    "rstrip": False, "normalized": True,
}  # fmt: skip


def test_the_small_file_is_read_as_it_is() -> None:
    tokenizer = HuggingFaceTokenizer(small(added_tokens=[ADDED]), 8)
    assert tokenizer.encode("abcx") == [2, 3, 4]
    assert tokenizer.end_of_document is None
    pairs = HuggingFaceTokenizer(small(model_merges=[["a", "b"]]), 8)
    assert pairs.encode("abc") == [2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ('{"model": NaN}', "NaN is no number"),
        ("[" * 100_000, "is damaged"),
        ('{"a":' * 100_000, "is damaged"),
        ("[]", "no object 'model'"),
        ("{}", "no object 'model'"),
        ('{"model": 1}', "no object 'model'"),
        ('{"model": {"type": "BPE", "vocab": {"a": ' + "9" * 5000, "is damaged"),
        (small(normalizer=nested(100)), "nests deeper than 32"),
        (small(model_dropout=nested(100)), "nests deeper than 32"),
        (small(model_vocab=[]), "no vocabulary"),
        (small(model_vocab=None), "no vocabulary"),
        (small(model_vocab={"a": True}), "no number from 0 on"),
        (small(model_vocab={"a": -1}), "no number from 0 on"),
        (small(model_vocab={"a": 0.5}), "no number from 0 on"),
        (small(model_vocab={"a": nested(9)}), "no number from 0 on"),
        (small(model_vocab={"a": 0, "b": 0}), "an id twice"),
        (small(model_vocab={"a": N_VOCAB}), "ids up to 1,000; the model has embeddings for 1,000"),
        (small(model_vocab={"a": 5_000_000_000}), "ids up to 5,000,000,000"),
        (small(model_merges=None), "no list of merges"),
        (small(model_merges=["a x"]), "merge 0 .* joins what is not there"),
        (small(model_merges=["x b"]), "joins what is not there"),
        (small(model_merges=["a c"]), "joins what is not there"),
        (small(model_merges=["ab"]), "joins what is not there"),
        (small(model_merges=["a b", 3]), "merge 1 "),
        (small(model_merges=[["a", "b", "c"]]), "joins what is not there"),
        (small(model_merges=[["a", ""]]), "joins what is not there"),
        (small(added_tokens=3), "no list of added tokens"),
        (small(added_tokens=[3]), "an added token without text or id"),
        (small(added_tokens=[ADDED | {"content": ""}]), "without text or id"),
        (small(added_tokens=[ADDED | {"id": N_VOCAB}]), "ids up to 1,000"),
        (small(added_tokens=[ADDED | {"id": 77}]), "'x' .* has the id 77, its place is 4"),
        (small(added_tokens=[ADDED] * (N_VOCAB + 1)), "no list of added tokens"),
        (small(normalizer={"type": "Runes"}), "tokenizers package refuses"),
        (small(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("}}), "package refuses"),
        (small(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "damaged"),
        (small(normalizer={"type": "Precompiled", "precompiled_charsmap": "?"}), "no base64"),
        (small(normalizer={"type": "Precompiled", "precompiled_charsmap": 3}), "no base64"),
        (small(normalizer={"type": "Replace", "pattern": 3, "content": "x" * 99}), "100 times"),
        (
            small(normalizer=sequence(*[replace({"String": "a"}, "aa")] * 9)),
            "a text 512 times longer",
        ),
        (small(normalizer=replace({"Regex": ""}, "x" * 80)), "a text 81 times longer"),
        (small(normalizer={"type": "Prepend", "prepend": "x" * 80}), "80 times longer"),
        (changed(unigram_json(), model_vocab=[]), "no vocabulary"),
        (changed(unigram_json(), model_vocab=[["a", 1.0], ["b"]]), "id 1 .* not a text with"),
        (changed(unigram_json(), model_vocab=[["a", 1.0], ["a", 1.0]]), "a text twice"),
        (changed(unigram_json(), model_vocab=[["a", 1.0]] * 1001), "ids up to 1,000"),
        (changed(unigram_json(), model_unk_id=77_777), "tokenizers package refuses"),
        ('{"model": {"type": "BPE", "merges": [], "vocab": {"\\ud800": 0}}, "decoder": '
         '{"type": "ByteLevel"}}', "tokenizers package refuses"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_tokenizer_is_refused(
    text: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        HuggingFaceTokenizer(text, N_VOCAB)
    assert str(caught.value).isprintable()
    # A panic would have been printed.
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (small(model_type="WordPiece"), "'WordPiece'; only BPE and Unigram"),
        (small(model_type=None), "None; only BPE"),
        (small(model_type="x\n" * 99), "only BPE"),
        (small(model_end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (small(model_continuing_subword_prefix="##"), "continuing_subword_prefix"),
        (small(decoder=None), "is missing; known are ByteLevel"),
        (small(decoder={"type": "WordPiece"}), "decoder .* is WordPiece"),
        (small(decoder={"type": "\n\U0010ffff"}), "known are ByteLevel"),
        (small(decoder={"type": "Sequence", "decoders": 3}), "decoder .* is missing"),
        (changed(unigram_json(), decoder={"type": "Metaspace", "replacement": "_"}), "than as ▁"),
        (changed(spaces_bpe_json(), model_unk_token=None, model_byte_fallback=False),
         "it would drop characters"),
    ],
)  # fmt: skip
def test_a_file_that_works_otherwise_is_unsupported(text: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        HuggingFaceTokenizer(text, N_VOCAB)
    assert str(caught.value).isprintable()


def test_a_file_much_larger_than_its_model_is_not_parsed() -> None:
    limit = SPARE_BYTES + BYTES_PER_ID * 10
    with pytest.raises(FormatError, match=f"at most {limit:,} are read for a model of 10 ids"):
        parse_tokenizer_json("[" + "[]," * (limit // 3) + "[]]", 10)


def test_what_the_library_alone_finds_is_one_line() -> None:
    """Everything that is not known to panic is left to it."""
    with pytest.raises(RwkvEdgeError) as caught:
        HuggingFaceTokenizer(small(normalizer={"type": "\n\x1b[31m"}), N_VOCAB)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_panic_of_the_library_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its panics are no `Exception`s; this one is known to come of a damaged table."""
    from rwkv_edge.tokenizers import huggingface_json

    monkeypatch.setattr(huggingface_json, "check_charsmap", lambda table: None)
    table = base64.b64encode(b"\xff\xff\xff\xff").decode()
    damaged = small(normalizer={"type": "Precompiled", "precompiled_charsmap": table})
    with pytest.raises(FormatError, match=r"tokenizers package refuses its tokenizer\.json"):
        HuggingFaceTokenizer(damaged, N_VOCAB)


def test_how_texts_are_spelled_is_read_from_the_decoder() -> None:
    def read(text: str) -> tuple[bool, bool]:
        scheme = scheme_of(parse_tokenizer_json(text, N_VOCAB))
        return scheme.is_byte_level, scheme.drops_first_space

    assert read(neox_json()) == (True, False)
    assert read(spaces_bpe_json()) == (False, True)
    assert read(unigram_json()) == (False, True)
    never = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}
    assert read(changed(unigram_json(), decoder=never)) == (False, False)
    older = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": False}
    assert read(changed(unigram_json(), decoder=older)) == (False, False)


@pytest.mark.parametrize("item", ["[],", "{},", '{"a":1.5},', '"ab",', "1.5,", "[[]],"])
def test_values_without_end_are_not_parsed(item: str) -> None:
    """As much as is let through takes what it may; more is refused before."""
    for n_items, is_parsed in ((400_000, False), (100_000, True)):
        text = '{"model":{"vocab":[' + item * n_items + "0]}}"
        tracemalloc.start()
        try:
            with pytest.raises((FormatError, UnsupportedModelError)) as caught:
                parse_tokenizer_json(text, 1 << 20)
            allocated = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert allocated < parsed_bytes(text) + 1_000_000
        assert allocated < 2 * len(text) + (64 << 20)
        if parsed_bytes(text) > (40 << 20) + 2 * len(text):
            assert "more values than any tokenizer" in str(caught.value)
            assert allocated < 1_000_000
            assert not is_parsed


@pytest.mark.parametrize("kind", ["unigram", "bpe", "added"])
def test_a_piece_longer_than_any_is_refused(kind: str) -> None:
    """The library frees a Unigram letter by letter: 200,000 of them ended the process."""
    base = {"unigram": unigram_json, "bpe": neox_json, "added": neox_json}[kind]()
    for length in (MAX_PIECE_CHARS, MAX_PIECE_CHARS + 1, 200_000):
        content = json.loads(base)
        piece = "x" * length
        if kind == "unigram":
            content["model"]["vocab"].append([piece, -9.0])
        elif kind == "bpe":
            content["model"]["vocab"][piece] = N_VOCAB - 1
        else:
            last = max(token["id"] for token in content["added_tokens"])
            content["added_tokens"].append(
                {**content["added_tokens"][-1], "content": piece, "id": last + 1}
            )
        if length == MAX_PIECE_CHARS:
            parse_tokenizer_json(json.dumps(content), N_VOCAB)
            continue
        with pytest.raises(FormatError, match=f"holds a piece of {length:,} characters"):
            HuggingFaceTokenizer(json.dumps(content), N_VOCAB)


def test_an_id_of_thousands_of_digits_is_not_repeated() -> None:
    content = json.loads(neox_json())
    content["model"]["vocab"]["x"] = 10**4000
    with pytest.raises(FormatError, match="ids up to numbers past 64 bits") as caught:
        parse_tokenizer_json(json.dumps(content), N_VOCAB)
    assert len(str(caught.value)) < 300
