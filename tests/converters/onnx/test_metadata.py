"""What an ONNX model says in JSON is what the GGUF of the same conversion says."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

pytest.importorskip("onnx")
from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.adapters import TunedState
from rwkv_edge.converters.convert import convert, planned
from rwkv_edge.converters.onnx.metadata import UNKNOWN_FINGERPRINT, metadata_props
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.onnx_model_file import FINGERPRINT_KEY, FORMAT_KEY
from rwkv_edge.onnx_values import decoded
from rwkv_edge.tokenizers import tokenizer_from_gguf
from rwkv_edge.tuned_state import tuned_state_in
from tests.converters.adapters.adapter_files import numbers, write_pth
from tests.tokenizers.foreign_files import neox_json, sentencepiece_model, unigram_json

Decoded = dict[str, Any]
TEXT = "The café, a b  c\n\n\tx = 1;  日本 end"


def both(source: Path, folder: Path, **options: Any) -> tuple[Decoded, Mapping[str, object]]:
    """The keys out of the JSON, and as they are read from the GGUF of the same conversion.

    What our own reader makes of each is compared here.
    """
    with planned(source, folder / "m.gguf", "Q8_0", **options) as plan:
        props = metadata_props(plan.header)
    convert(source, folder / "m.gguf", "Q8_0", **options)
    with GgufFile(folder / "m.gguf") as file:
        for key, wanted in file.metadata.items():
            found = decoded(props[key])
            assert type(found) is type(wanted), key
            np.testing.assert_array_equal(found, wanted, err_msg=key)
        return {key: json.loads(text) for key, text in props.items()}, file.metadata


def texts(value: object) -> object:
    """Lists as JSON has them: of texts and numbers, not of bytes and in arrays."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [item.decode() if isinstance(item, bytes) else item for item in value]
    return value


def test_every_key_is_that_of_the_gguf(tmp_path: Path, tiny_pth: Path) -> None:
    found, wanted = both(tiny_pth, tmp_path)
    assert found.pop(FORMAT_KEY) == 1
    assert found.pop(FINGERPRINT_KEY) == UNKNOWN_FINGERPRINT
    assert found == {key: texts(value) for key, value in wanted.items()}
    # As float32 holds it.
    assert found["rwkv7.attention.layer_norm_epsilon"] == float(np.float32(1e-5)) != 1e-5


@pytest.mark.parametrize(
    "kind", ["world", "bytes", "neox", "unigram", "bpe-model", "unigram-model"]
)
def test_the_tokenizer_comes_back_identical(tmp_path: Path, kind: str) -> None:
    n_vocab = {"world": 65536, "bytes": 256}.get(kind, 640)
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 64, n_vocab=n_vocab))
    options: dict[str, Any] = {}
    content = {
        "neox": lambda: neox_json().encode(),
        "unigram": lambda: unigram_json().encode(),
        "bpe-model": lambda: sentencepiece_model("bpe", "identity"),
        "unigram-model": lambda: sentencepiece_model("unigram", "nmt_nfkc"),
    }.get(kind)
    if content is not None:
        pytest.importorskip("sentencepiece" if kind.endswith("model") else "tokenizers")
        (tmp_path / "words").write_bytes(content())
        options["tokenizer"] = tmp_path / "words"
    found, wanted = both(tmp_path / "m.pth", tmp_path, **options)
    for key, value in wanted.items():
        assert found[key] == texts(value), key
    # As who reads the file gives them to a tokenizer: lists of numbers in arrays.
    key = "rwkv_edge.tokenizer.sentencepiece"
    if key in found:
        found[key] = np.array(found[key], np.uint8)
    one, other = tokenizer_from_gguf(found, n_vocab), tokenizer_from_gguf(wanted, n_vocab)
    assert type(one) is type(other)
    assert one.encode(TEXT) == other.encode(TEXT)
    assert len(one.encode(TEXT)) > 5
    for token in range(n_vocab):
        assert one.decode_bytes([token]) == other.decode_bytes([token]), token


def test_a_tuned_state_comes_back_identical(
    tmp_path: Path, tiny_pth: Path, tiny: Rwkv7Hyperparameters
) -> None:
    from rwkv_edge.arch import architecture_of

    states = {f"blocks.{i}.att.time_state": numbers(i, 2, 64, 64) for i in range(tiny.n_layer)}
    state = write_pth(tmp_path / "state.pth", states)
    found, wanted = both(tiny_pth, tmp_path, adapters=[TunedState(state)])
    arrays = [tuned_state_in(keys, architecture_of("7"), tiny) for keys in (found, wanted)]
    assert arrays[0] is not None
    assert arrays[1] is not None
    np.testing.assert_array_equal(arrays[0]["wkv"], arrays[1]["wkv"])


def test_keys_of_any_type_are_carried_over(
    tmp_path: Path, f32_gguf: Path, altered_gguf: Callable[..., Path]
) -> None:
    keys = {
        "my.flag": True,
        "my.number": 0.1,
        "my.large": 2**63 + 1,
        "my.text": 'é "quoted" \n \x00',
        "my.texts": ["a", "é", ""],
        "my.shorts": np.array([-1, 2]),
        "my.numbers": np.array([0.1, -1.5]),
    }
    found, wanted = both(altered_gguf(f32_gguf, keys=keys), tmp_path)
    for key in keys:
        assert found[key] == texts(wanted[key]), key


def carrying(folder: Path, source: Path, fill: Callable[[gguf.GGUFWriter], None]) -> Path:
    """A copy of an F32 file with keys of a writer's own."""
    path = folder / "carrying.gguf"
    writer = gguf.GGUFWriter(path, "rwkv7")
    fill(writer)
    with GgufFile(source) as file:
        for key, value in file.metadata.items():
            if key not in writer.kv_data[0] and not isinstance(value, np.ndarray | list):
                writer.add_key_value(key, value, file.types[key][0])
        for name, tensor in file.tensors.items():
            writer.add_tensor(name, np.array(tensor.decode()))
        del tensor
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_json_has_no_words_for_is_null(tmp_path: Path, f32_gguf: Path) -> None:
    def fill(writer: gguf.GGUFWriter) -> None:
        writer.add_float32("my.number", float("nan"))
        writer.add_array("my.numbers", [0.5, float("-inf")])
        writer.add_token_list([repr(bytes([i]))[2:-1] for i in range(256)])
        writer.add_token_types([1] * 256)

    with planned(carrying(tmp_path, f32_gguf, fill), tmp_path / "m.onnx", "Q8_0") as plan:
        props = metadata_props(plan.header)
    assert props["my.number"] == "null"
    assert props["my.numbers"] == "[0.5,null]"


def test_tokens_that_are_no_utf8_keep_their_bytes(tmp_path: Path, f32_gguf: Path) -> None:
    """Some writers put a token's bytes down as they are."""
    raw = [bytes([i]) if i not in b"\\" else b"\\\\" for i in range(256)]

    def fill(writer: gguf.GGUFWriter) -> None:
        writer.add_token_list(raw)
        writer.add_token_types([1] * 256)
        writer.add_string("rwkv_edge.tokenizer", "world")

    source = carrying(tmp_path, f32_gguf, fill)
    with planned(source, tmp_path / "m.onnx", "Q8_0") as plan:
        props = metadata_props(plan.header)
    tokenizer = tokenizer_from_gguf({k: json.loads(text) for k, text in props.items()}, 256)
    assert [tokenizer.decode_bytes([i]) for i in range(256)] == [bytes([i]) for i in range(256)]
