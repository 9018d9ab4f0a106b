"""A GGUF converts to what the checkpoint that it came from converts to, with all its keys."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType

from rwkv_edge.arch.rwkv6 import LERPS
from rwkv_edge.converters.checkpoints import container_of, open_checkpoint
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.model_source import open_model_source
from rwkv_edge.converters.synthetic import write_synthetic
from rwkv_edge.errors import FormatError, InputError, UnsupportedModelError
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.model_file import ModelFile
from tests.converters.foreign_names import tiny_model

VERSIONS = ["4", "5.0", "5.1", "5.2", "6", "7", "7a"]
STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """A GGUF of a random checkpoint, which is `m.pth` beside it."""

    def make(version: str = "7", dtype: str = "float32", **changes: Any) -> Path:
        write_synthetic(tmp_path / "m.pth", tiny_model(version, **changes), dtype=dtype)
        convert(tmp_path / "m.pth", tmp_path / "plain.gguf", STORED[dtype])
        return tmp_path / "plain.gguf"

    return make


@pytest.mark.parametrize(
    ("version", "dtype"),
    # RWKV-7a's tables are sums, which 16 bits round: the next rounding may then go another way.
    [(v, dtype) for v in VERSIONS for dtype in STORED if v != "7a" or dtype == "float32"],
)
def test_the_output_is_byte_for_byte_that_of_the_checkpoint(
    tmp_path: Path, made: Callable[..., Path], version: str, dtype: str
) -> None:
    source = made(version, dtype)
    assert container_of(source).name == "gguf"
    for weight_type in ("Q4_0", "Q8_0", "F16", "F32"):
        wanted = convert(tmp_path / "m.pth", tmp_path / "wanted.gguf", weight_type)
        found = convert(source, tmp_path / "found.gguf", weight_type)
        assert found.path.read_bytes() == wanted.path.read_bytes(), weight_type
        assert dataclasses.asdict(found.hyperparameters) == dataclasses.asdict(
            wanted.hyperparameters
        )
        assert found.notes == ()


def test_a_vocabulary_goes_along(tmp_path: Path, words_gguf: Path) -> None:
    found = convert(words_gguf, tmp_path / "m.gguf", "Q8_0")
    assert (found.tokenizer, found.vocabulary) == ("world", str(words_gguf))
    texts = []
    for path in (words_gguf, found.path):
        file = ModelFile(path)
        texts.append([file.tokenizer.decode([i]) for i in range(320)])
        assert file.gguf.metadata["tokenizer.ggml.tokens"]
        file.close()
    assert texts[0] == texts[1]


def test_keys_of_any_type_stay_as_gguf_py_wrote_them(
    tmp_path: Path, made: Callable[..., Path]
) -> None:
    source = tmp_path / "keyed.gguf"
    with GgufFile(made()) as file:
        writer = gguf.GGUFWriter(source, "rwkv7")
        for key in ("rwkv7.embedding_length", "rwkv7.block_count", "rwkv7.wkv.head_size"):
            writer.add_int32(key, int(str(file.metadata[key])))
        writer.add_uint64("rwkv7.context_length", 4096)
        for key, value in file.metadata.items():
            if key.startswith("rwkv7.") and key not in writer.kv_data[0]:
                writer.add_key_value(key, value, *file.types[key][:1])
        writer.add_name("Someone's model")
        writer.add_author("Someone")
        writer.add_file_type(0)
        writer.add_bool("my.flag", True)
        writer.add_float64("my.number", 0.1)
        writer.add_array("my.texts", ["a", "é", ""])
        writer.add_key_value("my.bytes", bytes(range(9)), GGUFValueType.ARRAY, GGUFValueType.UINT8)
        writer.add_key_value("my.shorts", [-1, 2], GGUFValueType.ARRAY, GGUFValueType.INT16)
        writer.add_key_value("my.flags", [True, False], GGUFValueType.ARRAY, GGUFValueType.BOOL)
        writer.add_chat_template("{{ messages }}")
        writer.add_eot_token_id(261)
        writer.add_tokenizer_model("rwkv")
        writer.add_token_list([repr(bytes([i]))[2:-1] for i in range(256)])
        writer.add_token_types([1] * 256)
        for name, tensor in file.tensors.items():
            writer.add_tensor(name, np.array(tensor.decode()))
        del tensor
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = GGUFReader(convert(source, tmp_path / "m.gguf", "Q8_0").path).fields
    anew = {"general.file_type": 7, "general.quantization_version": 2}
    kept = 0
    for key, field in GGUFReader(source).fields.items():
        if key.startswith("GGUF.") or key in anew:
            continue
        kept += 1
        assert found[key].types == field.types, key
        assert found[key].contents() == field.contents(), key
    assert kept > 20
    assert {key: found[key].contents() for key in anew} == anew


def test_another_tokenizer_may_be_named(tmp_path: Path, made: Callable[..., Path]) -> None:
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{i} {bytes([i])!r} 1\n" for i in range(1, 100)))
    summary = convert(made(), tmp_path / "m.gguf", "F16", tokenizer=words)
    assert (summary.tokenizer, summary.vocabulary) == ("world", str(words))
    with GgufFile(summary.path) as file:
        assert file.metadata["tokenizer.ggml.tokens"][99] == b"c"  # type: ignore[index]


def test_a_tokenizer_that_cannot_be_used_is_refused_unless_another_is_named(
    tmp_path: Path, made: Callable[..., Path], altered_gguf: Callable[..., Path]
) -> None:
    source = altered_gguf(made(), keys={"tokenizer.ggml.tokens": ["a"] * 257})
    with pytest.raises(FormatError, match=r"257 tokens.*name a tokenizer file"):
        convert(source, tmp_path / "m.gguf")
    foreign = altered_gguf(made(), keys={"tokenizer.ggml.model": "gpt2"})
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        convert(foreign, tmp_path / "m.gguf")
    words = tmp_path / "words.txt"
    words.write_text("1 'a' 1\n")
    assert convert(foreign, tmp_path / "m.gguf", tokenizer=words).tokenizer == "world"
    bare = altered_gguf(made(), keys={"tokenizer.ggml.model": None})
    assert convert(bare, tmp_path / "m.gguf").tokenizer == "bytes"


def test_lerps_of_an_older_file_are_fused(
    tmp_path: Path, made: Callable[..., Path], altered_gguf: Callable[..., Path]
) -> None:
    source = made("6")
    tensors: dict[str, Any] = {}
    with GgufFile(source) as file:
        for layer in range(2):
            fused = f"blk.{layer}.time_mix_lerp_fused.weight"
            rows = np.array(file.tensors[fused].decode()).reshape(len(LERPS), -1)
            tensors[fused] = None
            for letter, row in zip(LERPS, rows, strict=True):
                tensors[fused.replace("fused", letter)] = (row, "F32")
    older = altered_gguf(source, tensors=tensors)
    wanted = convert(source, tmp_path / "wanted.gguf", "Q4_0").path.read_bytes()
    assert convert(older, tmp_path / "found.gguf", "Q4_0").path.read_bytes() == wanted


def test_a_rescaled_file_keeps_its_scale(
    tmp_path: Path, made: Callable[..., Path], rescaled_gguf: Callable[[Path, int], Path]
) -> None:
    source = rescaled_gguf(made("6"), 1)
    found = ModelFile(convert(source, tmp_path / "m.gguf", "F32").path)
    with GgufFile(source) as file:
        name = "blk.1.time_mix_output.weight"
        np.testing.assert_array_equal(found.tensor(name).decode(), file.tensors[name].decode())
        assert found.gguf.metadata["rwkv6.rescale_every_n_layers"] == 1
    found.close()


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
def test_a_quantized_file_is_refused_with_the_reason(
    tmp_path: Path, made: Callable[..., Path], weight_type: str
) -> None:
    source = convert(made(), tmp_path / "q.gguf", weight_type).path
    with pytest.raises(UnsupportedModelError, match=rf"is {weight_type} already.*convert the"):
        convert(source, tmp_path / "m.gguf", "Q8_0")
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.stored_as("token_embd.weight") == weight_type


def test_tensors_that_the_model_does_not_have_are_left_out_and_named(
    tmp_path: Path, made: Callable[..., Path], altered_gguf: Callable[..., Path]
) -> None:
    source = altered_gguf(made(), tensors={"my.tensor": (np.zeros(4, np.float32), "F32")})
    summary = convert(source, tmp_path / "m.gguf")
    assert summary.notes == ("left out, since RWKV-7 has no such tensor: my.tensor",)


def test_a_missing_tensor_is_named(
    tmp_path: Path, made: Callable[..., Path], altered_gguf: Callable[..., Path]
) -> None:
    source = altered_gguf(made(), tensors={"output.weight": None})
    with pytest.raises(FormatError, match=r"output\.weight is missing"):
        convert(source, tmp_path / "m.gguf")


def test_the_output_is_never_the_input(tmp_path: Path, made: Callable[..., Path]) -> None:
    source = made()
    before = source.read_bytes()
    (tmp_path / "link.gguf").symlink_to(source)
    for name in ("plain.gguf", "link.gguf"):
        with pytest.raises(InputError, match="is the checkpoint itself"):
            convert(source, tmp_path / name)
    assert source.read_bytes() == before


def test_the_input_is_not_held_open_by_a_map(made: Callable[..., Path]) -> None:
    """Windows would keep it from being replaced or removed."""
    source = made()
    with open_model_source(source) as model:
        assert model.hyperparameters.version == "7"
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(source) not in maps.read_text()


def test_states_go_from_the_plain_file_to_the_quantized_one(
    tmp_path: Path, made: Callable[..., Path]
) -> None:
    """Its vectors name a model, and they are the same numbers."""
    source = made()
    found = convert(source, tmp_path / "m.gguf", "Q8_0").path
    files = [ModelFile(path) for path in (source, found)]
    assert files[0].fingerprint == files[1].fingerprint
    for file in files:
        file.close()
