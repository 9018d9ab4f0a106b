"""A tokenizer goes into a GGUF and comes out of it the same; llama.cpp loads the file."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, TokenType
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge import Model
from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.tokenizers.base import pad_tokens
from rwkv_edge.errors import BackendUnavailableError, FormatError
from rwkv_edge.model_file import ModelFile
from rwkv_edge.tokenizers import Tokenizer, load_tokenizer
from rwkv_edge.tokenizers.huggingface import NEOX_N_IDS

pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")
from tests.tokenizers.foreign_files import (
    changed,
    neox_json,
    sentencepiece_model,
    spaces_bpe_json,
    unigram_json,
    untimed,
)

N_VOCAB = 640
# Content of a file, its kind here, and what llama.cpp takes it for.
FILES: dict[str, tuple[bytes, str, str]] = {
    "neox": (neox_json().encode(), "huggingface", "gpt2"),
    "spaces": (spaces_bpe_json().encode(), "huggingface", "llama"),
    "unigram": (unigram_json().encode(), "huggingface", "t5"),
    "spm-bpe": (sentencepiece_model("bpe", "identity"), "sentencepiece", "llama"),
    "spm-unigram": (sentencepiece_model("unigram", "nmt_nfkc"), "sentencepiece", "t5"),
    "spm-plain": (sentencepiece_model("bpe", "identity", False), "sentencepiece", "llama"),
}


def hyperparameters(n_vocab: int = N_VOCAB) -> Rwkv7Hyperparameters:
    hp = synthetic_hyperparameters(2, 64, n_vocab=n_vocab)
    # llama.cpp wants one rank for both in layer 0.
    return dataclasses.replace(hp, value_rank=hp.iclr_rank)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t")
    write_synthetic(folder / "m.pth", hyperparameters())
    return folder


@pytest.fixture(scope="module")
def converted(folder: Path) -> Callable[[str], Path]:
    """A model with this tokenizer; the file that it came from is gone."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            source = folder / f"{name}-file"
            source.write_bytes(FILES[name][0])
            made[name] = folder / f"{name}.gguf"
            summary = convert(folder / "m.pth", made[name], "F32", tokenizer=source)
            assert (summary.tokenizer, summary.vocabulary) == (FILES[name][1], str(source))
            assert any("the rest is padding" in note for note in summary.notes)
            source.unlink()
        return made[name]

    return make


@pytest.fixture(scope="module")
def embedded(converted: Callable[[str], Path]) -> Callable[[str], Tokenizer]:
    found: dict[str, Tokenizer] = {}

    def read(name: str) -> Tokenizer:
        if name not in found:
            file = ModelFile(converted(name))
            found[name] = file.tokenizer
            file.close()
        return found[name]

    return read


@pytest.fixture(scope="module")
def original(folder: Path) -> Callable[[str], Tokenizer]:
    found: dict[str, Tokenizer] = {}

    def read(name: str) -> Tokenizer:
        if name not in found:
            path = folder / f"{name}-original"
            path.write_bytes(FILES[name][0])
            found[name] = load_tokenizer(path, N_VOCAB)
        return found[name]

    return read


Read = Callable[[str], Tokenizer]


@pytest.mark.parametrize("name", FILES)
@untimed
@given(text=st.one_of(st.text(max_size=30), st.binary(max_size=30)))
def test_the_embedded_tokenizer_is_the_original(
    embedded: Read, original: Read, name: str, text: str | bytes
) -> None:
    tokens = original(name).encode(text)
    assert embedded(name).encode(text) == tokens
    assert embedded(name).encode_more(text) == original(name).encode_more(text)
    assert embedded(name).decode_bytes(tokens) == original(name).decode_bytes(tokens)


@pytest.mark.parametrize("name", FILES)
def test_every_id_has_the_text_of_the_original(embedded: Read, original: Read, name: str) -> None:
    texts = [original(name).token_bytes(token) for token in range(N_VOCAB)]
    assert [embedded(name).token_bytes(token) for token in range(N_VOCAB)] == texts
    assert embedded(name).end_of_document == original(name).end_of_document


def field(reader: GGUFReader, key: str) -> Any:
    found = reader.get_field(key)
    return None if found is None else found.contents()


@pytest.mark.parametrize("name", FILES)
def test_the_file_itself_is_inside(converted: Callable[[str], Path], name: str) -> None:
    content, kind, _ = FILES[name]
    reader = GGUFReader(converted(name))
    assert field(reader, "rwkv_edge.tokenizer") == kind
    if kind == "huggingface":
        assert field(reader, "tokenizer.huggingface.json").encode() == content
    else:
        assert bytes(field(reader, "rwkv_edge.tokenizer.sentencepiece")) == content


def test_neox_keys_are_those_of_gpt2(converted: Callable[[str], Path]) -> None:
    reader = GGUFReader(converted("neox"))
    tokens = field(reader, "tokenizer.ggml.tokens")
    types = field(reader, "tokenizer.ggml.token_type")
    content = json.loads(neox_json())
    assert field(reader, "tokenizer.ggml.model") == "gpt2"
    assert field(reader, "tokenizer.ggml.merges") == [
        " ".join(merge) for merge in content["model"]["merges"]
    ]
    for text, token in content["model"]["vocab"].items():
        assert tokens[token] == text
    for added in content["added_tokens"]:
        assert tokens[added["id"]] == added["content"]
        wanted = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        assert types[added["id"]] == wanted
    assert (tokens[-1], types[-1]) == (f"[PAD{N_VOCAB - 1}]", TokenType.UNUSED)
    assert len(tokens) == len(types) == N_VOCAB == len(set(tokens))
    for key in ("bos_token_id", "eos_token_id", "eot_token_id"):
        assert field(reader, f"tokenizer.ggml.{key}") == 0


def test_sentencepiece_keys_are_those_of_llama(converted: Callable[[str], Path]) -> None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(FILES["spm-bpe"][0])
    reader = GGUFReader(converted("spm-bpe"))
    ids = range(processor.vocab_size())
    n_ids = len(ids)
    pieces = [processor.id_to_piece(token) for token in ids]
    assert field(reader, "tokenizer.ggml.tokens")[:n_ids] == pieces
    scores = np.array([processor.get_score(token) for token in ids], np.float32)
    assert (np.array(field(reader, "tokenizer.ggml.scores"))[:n_ids] == scores).all()
    types = field(reader, "tokenizer.ggml.token_type")
    assert [token for token in ids if types[token] == TokenType.BYTE] == [
        token for token in ids if processor.is_byte(token)
    ]
    assert types[:3] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    assert field(reader, "tokenizer.ggml.eos_token_id") == 2
    assert field(reader, "tokenizer.ggml.add_space_prefix") is True
    assert field(reader, "tokenizer.ggml.remove_extra_whitespaces") is False
    charsmap = field(GGUFReader(converted("spm-unigram")), "tokenizer.ggml.precompiled_charsmap")
    assert len(charsmap) > 100_000


@pytest.mark.parametrize("name", FILES)
def test_llama_cpp_loads_it_and_computes_the_same(
    converted: Callable[[str], Path], name: str
) -> None:
    pytest.importorskip("llama_cpp")
    tokens = [3, 300, 5, N_VOCAB - 1]
    with Model.load(converted(name), "reference") as reference:
        expected, _ = reference.forward(tokens)
    with Model.load(converted(name), "llama") as model:
        logits, _ = model.forward(tokens)
        # llama.cpp sums in float32 in another order.
        assert np.abs(logits - expected).max() < 1e-4 * np.ptp(expected)


def test_a_tokenizer_of_neox_makes_a_raven(folder: Path) -> None:
    """A stand-in of its size: single bytes, and pairs of them up to 50,277 ids."""
    content = json.loads(neox_json())
    alphabet = [text for text in content["model"]["vocab"] if len(text) == 1]
    vocabulary = {"<|endoftext|>": 0, "<|padding|>": 1}
    vocabulary |= {text: token for token, text in enumerate(alphabet, 2)}
    merges = [[first, second] for first in alphabet for second in alphabet]
    merges = merges[: 50254 - len(vocabulary)]
    vocabulary |= {"".join(merge): token for token, merge in enumerate(merges, len(vocabulary))}
    added = content["added_tokens"]
    for token, entry in enumerate(added[2:], 50254):
        entry["id"] = token
    text = changed(neox_json(), added_tokens=added, model_vocab=vocabulary, model_merges=merges)
    (folder / "20B_tokenizer.json").write_text(text)
    write_synthetic(folder / "raven.pth", hyperparameters(NEOX_N_IDS))
    summary = convert(folder / "raven.pth", folder / "raven.gguf", "F32")
    (folder / "20B_tokenizer.json").unlink()
    assert summary.tokenizer == "huggingface"
    assert summary.notes == ()
    with Model.load(folder / "raven.gguf", "reference") as model:
        assert model.tokenizer.end_of_document == 0
        assert model.chat().template.name == "raven"
        assert model.chat(template="world").template.name == "world"
        tokens = model.tokenizer.encode("Bob: é<|endoftext|>  \n")
        assert model.tokenizer.decode(tokens) == "Bob: é<|endoftext|>  \n"


def test_a_world_model_s_template_is_said_in_the_file(folder: Path) -> None:
    write_synthetic(folder / "world.pth", hyperparameters(65536))
    convert(folder / "world.pth", folder / "world.gguf")
    reader = GGUFReader(folder / "world.gguf")
    assert field(reader, "rwkv_edge.chat_template") == "world"
    assert field(reader, "tokenizer.chat_template") == "rwkv-world"


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("neox", {"tokenizer.huggingface.json": "{"}, "tokenizer.json is damaged"),
        ("neox", {"tokenizer.huggingface.json": "[" * 200_000}, "tokenizer.json is damaged"),
        ("neox", {"tokenizer.huggingface.json": "x" * 2_000_000}, "at most 1,212,416 are read"),
        ("neox", {"tokenizer.huggingface.json": 7}, "missing or not a text"),
        (
            "neox",
            {"tokenizer.huggingface.json": changed(neox_json(), model_merges=["a b", "x yz"])},
            "joins what is not there",
        ),
        ("spm-bpe", {"rwkv_edge.tokenizer.sentencepiece": "text"}, "not an array of bytes"),
        ("spm-bpe", {"rwkv_edge.tokenizer.sentencepiece": [1.5]}, "not an array of bytes"),
        ("spm-bpe", {"rwkv_edge.tokenizer.sentencepiece": b"\x0a\x7f"}, "is cut off"),
        ("spm-bpe", {"rwkv_edge.tokenizer": "huggingface"}, "huggingface.json is missing"),
        ("neox", {"rwkv_edge.tokenizer": "sentencepiece"}, "sentencepiece is missing"),
    ],
)
def test_a_damaged_tokenizer_in_a_gguf_is_refused_by_file(
    converted: Callable[[str], Path],
    altered_gguf: Callable[..., Path],
    name: str,
    keys: dict[str, Any],
    message: str,
) -> None:
    path = altered_gguf(converted(name), keys=keys)
    with pytest.raises(FormatError, match=message) as caught:
        Model.load(path, "reference")
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_a_missing_package_is_said_with_the_file(
    converted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = converted("neox")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(BackendUnavailableError, match=r"m?\.gguf: .*pip install") as caught:
        Model.load(path, "reference")
    assert "\n" not in str(caught.value)


def test_padding_never_has_the_name_of_a_token() -> None:
    """llama.cpp ends the process when two ids have one text."""
    texts, types = pad_tokens(["a", "[PAD2]", None, None], [1, 1, 1, 1])
    assert texts == ["a", "[PAD2]", "[[PAD2]]", "[PAD3]"]
    assert types == [1, 1, TokenType.UNUSED, TokenType.UNUSED]
