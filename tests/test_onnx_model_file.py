"""ONNX models against their architecture: the facts of the GGUF, and what does not fit by name."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import FormatError, RwkvEdgeError, UnsupportedModelError
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.onnx.export import convert_to_onnx
from rwkv_edge.converters.synthetic import (
    SYNTHETIC_VERSIONS,
    synthetic_hyperparameters,
    write_synthetic,
)
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.model_file import ModelFile
from rwkv_edge.model_files import open_model_file
from rwkv_edge.onnx_model_file import OnnxModelFile
from rwkv_edge.tuned_state import encode_tuned_state

onnx = pytest.importorskip("onnx")
files = pytest.importorskip("tests.onnx_files")

FLOAT, INT64, FLOAT16 = 1, 7, 10
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """The ONNX of a GGUF, in a folder with a dull name: pytest's own holds the test's."""

    def write(gguf: Path, **changes: Any) -> Path:
        path = tmp_path_factory.mktemp("o") / "m.onnx"
        written: Path = files.write_onnx(path, gguf, **changes)
        return written

    return write


def refused(path: Path, match: str, error: type[RwkvEdgeError] = FormatError) -> None:
    """Opening it, or asking for its tokenizer, fails in one line that names a file of it."""

    def open_whole() -> None:
        with closing(OnnxModelFile(path)) as file:
            assert file.tokenizer

    with pytest.raises(error, match=match) as caught:
        open_whole()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400


def floats(name: str, *shape: int) -> Any:
    return files.raw_tensor(name, FLOAT, np.ones(shape, np.float32))


@pytest.fixture(scope="session")
def ggufs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """By version and weight type, made once."""
    folder = tmp_path_factory.mktemp("g")

    def made(version: str, weight_type: str) -> Path:
        pth, path = folder / f"{version}.pth", folder / f"{version}-{weight_type}.gguf"
        if not pth.exists():
            hp = synthetic_hyperparameters(2, 64, version=version, n_vocab=256)
            write_synthetic(pth, hp)
        if not path.exists():
            convert(pth, path, weight_type)
        return path

    return made


@pytest.mark.parametrize("weight_type", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("version", SYNTHETIC_VERSIONS)
def test_an_onnx_says_of_its_model_what_the_gguf_of_the_same_says(
    write: Write, ggufs: Callable[[str, str], Path], version: str, weight_type: str
) -> None:
    gguf = ggufs(version, weight_type)
    with closing(ModelFile(gguf)) as wanted, closing(OnnxModelFile(write(gguf))) as found:
        assert found.hyperparameters == wanted.hyperparameters
        assert found.architecture is wanted.architecture
        unread = found.architecture.unread(found.hyperparameters)
        names = {spec.name for spec in wanted.architecture.tensors(wanted.hyperparameters)}
        assert found.formats == {n: wanted.tensor(n).quant_format for n in names - unread}
        for fact in ("fingerprint", "file_type", "n_parameters", "name", "chat_template"):
            assert getattr(found, fact) == getattr(wanted, fact)
        assert found.tokenizer.encode("größer \n\n 天") == wanted.tokenizer.encode("größer \n\n 天")
        assert found.tuned_state() is None
        # Scales have 32 bits, not 16: a block of 32 takes 20 bytes for 18, or 36 for 34.
        ratio = {"Q4_0": 20 / 18, "Q8_0": 36 / 34}.get(weight_type, 1)
        n_unread = sum(wanted.tensor(name).raw.nbytes for name in unread if "v0" not in name)
        assert wanted.bytes_per_token - n_unread <= found.bytes_per_token
        assert found.bytes_per_token <= ratio * wanted.bytes_per_token


@pytest.mark.parametrize("version", SYNTHETIC_VERSIONS)
@pytest.mark.parametrize(("weight_type", "external"), [("F16", True), ("Q4_0", False)])
def test_what_is_exported_is_read_as_the_gguf_of_the_same_checkpoint(
    ggufs: Callable[[str, str], Path],
    tmp_path: Path,
    version: str,
    weight_type: str,
    external: bool,
) -> None:
    gguf = ggufs(version, weight_type)
    summary = convert_to_onnx(gguf, tmp_path / "m.onnx", None, external_data=external)
    with closing(ModelFile(gguf)) as wanted, closing(OnnxModelFile(tmp_path / "m.onnx")) as found:
        assert found.onnx.locations == ([summary.data_path.name] if summary.data_path else [])
        assert bool(found.onnx.locations) == external
        for fact in ("hyperparameters", "fingerprint", "file_type", "n_parameters", "name"):
            assert getattr(found, fact) == getattr(wanted, fact)
        assert found.onnx.n_nodes > 100
        for key, value in wanted.metadata.items():
            assert np.array_equal(found.metadata[key], value)  # type: ignore[arg-type]
        for name, quant in found.formats.items():
            assert quant is wanted.tensor(name).quant_format
            if quant.block_len == 1:
                assert found.onnx.tensors[name].raw.tobytes() == wanted.tensor(name).raw.tobytes()


def test_keys_of_every_kind_come_back_as_the_gguf_has_them(write: Write, words_gguf: Path) -> None:
    with GgufFile(words_gguf) as gguf, closing(OnnxModelFile(write(words_gguf))) as found:
        own = {"rwkv_edge.onnx_format", "rwkv_edge.fingerprint"}
        assert set(found.metadata) - own == set(gguf.metadata)
        for key, wanted in gguf.metadata.items():
            value = found.metadata[key]
            if isinstance(wanted, np.ndarray):
                assert np.array_equal(value, wanted)  # type: ignore[arg-type]
            else:
                assert (value, type(value)) == (wanted, type(wanted))


def test_a_tuned_state_is_read_to_the_bit(write: Write, ggufs: Callable[[str, str], Path]) -> None:
    wkv = np.random.default_rng(1).standard_normal((2, 1, 64, 64)).astype(np.float32)
    gguf = ggufs("7", "F32")
    path = write(gguf, keys={"rwkv_edge.tuned_state": encode_tuned_state(wkv)})
    with closing(OnnxModelFile(path)) as file:
        found = file.tuned_state()
    assert found is not None
    assert np.array_equal(found["wkv"], wkv)


def test_weights_may_lie_in_a_file_beside_it(write: Write, q4_gguf: Path) -> None:
    path = write(q4_gguf, data="m.0123abcd.data")
    data = path.parent / "m.0123abcd.data"
    with closing(OnnxModelFile(path)) as file, closing(OnnxModelFile(write(q4_gguf))) as whole:
        assert file.n_bytes == path.stat().st_size + data.stat().st_size
        for name, tensor in file.onnx.tensors.items():
            if tensor.offset is not None:
                assert tensor.raw.tobytes() == whole.onnx.tensors[name].raw.tobytes()
            del tensor
    content = data.read_bytes()
    data.write_bytes(content[:-5000])
    with pytest.raises(FormatError, match=r"ends at byte .*; copy the file again") as caught:
        OnnxModelFile(path)
    assert str(caught.value).startswith(f"{data}: ")
    data.unlink()
    refused(path, "its weights lie in m.0123abcd.data, which is not there; put that file beside it")


def test_an_onnx_of_another_maker_is_unsupported(write: Write, q4_gguf: Path) -> None:
    path = write(q4_gguf, keys={"rwkv_edge.onnx_format": None})
    refused(path, "is an ONNX that rwkv-edge did not make; convert", UnsupportedModelError)


@pytest.mark.parametrize("number", [2, 10**9])
def test_an_onnx_of_a_newer_rwkv_edge_is_unsupported(
    write: Write, q4_gguf: Path, number: int
) -> None:
    path = write(q4_gguf, keys={"rwkv_edge.onnx_format": number})
    refused(path, f"is an ONNX of format {number}, made by a newer", UnsupportedModelError)


@pytest.mark.parametrize("value", [0, -1, "1", 1.0, True, [1], {}])
def test_a_format_that_is_no_number_is_damage(write: Write, q4_gguf: Path, value: object) -> None:
    path = write(q4_gguf, keys={"rwkv_edge.onnx_format": value})
    refused(path, "key rwkv_edge.onnx_format is .*, not 1; export it again")


@pytest.mark.parametrize("name", [None, "rwkv8", "llama", "rwkv7\n", ["rwkv7"], 7])
def test_a_version_of_rwkv_that_is_not_known_is_unsupported(
    write: Write, q4_gguf: Path, name: object
) -> None:
    path = write(q4_gguf, keys={"general.architecture": name})
    refused(path, "its architecture is .*; this version runs rwkv4, ", UnsupportedModelError)


@pytest.mark.parametrize(
    "value", [None, "", "0" * 31, "0" * 33, "G" * 32, 5, ["0" * 32], "0" * 31 + "\n"]
)
def test_a_fingerprint_that_is_none_is_refused(write: Write, q4_gguf: Path, value: object) -> None:
    path = write(q4_gguf, keys={"rwkv_edge.fingerprint": value})
    refused(path, "key rwkv_edge.fingerprint is .*, no fingerprint")


@pytest.mark.parametrize("value", [None, 0, "3", 3.0, True, 1 << 24, 1 << 63, [3]])
def test_a_count_that_cannot_be_is_refused(write: Write, q4_gguf: Path, value: object) -> None:
    path = write(q4_gguf, keys={"rwkv7.block_count": value})
    refused(path, r"block_count is |announces 16,777,216 layers in \d+ tensors")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"output_norm.weight": None}, "tensor output_norm.weight is missing; export it again"),
        ({"output.weight.codes": None}, "tensor output.weight is missing"),
        ({"output.weight.scales": None}, "tensor output.weight has codes, but no scales"),
        ({"output.weight": (256, 128)}, "it holds the tensor output.weight twice"),
        ({"output.weight.scales": (256, 3)}, "which do not fit"),
        ({"output.weight.scales": (128, 4)}, "which do not fit"),
        ({"output.weight.scales": (256, 0)}, "which do not fit"),
        ({"output.weight.scales": ()}, "which do not fit"),
        ({"output.weight.codes": (256, 4, 16)}, r"has FLOAT \[256, 4, 16\] for codes"),
        ({"output_norm.weight": (64,)}, r"is \[64\]; its place needs \[128\]"),
        ({"output_norm.weight": (1, 128)}, r"is \[1, 128\]; its place needs \[128\]"),
        ({"blk.1.time_mix_w1.weight": (128, 32)}, r"its place needs \[32, 128\]"),
        ({"blk.1.time_mix_lerp_fused.weight": (5, 1, 1, 128)}, "its place needs"),
        ({"logits_from": (1,)}, r"the default of logits_from is no INT64 \[1\]"),
    ],
)
def test_weights_that_are_missing_or_do_not_fit_are_named(
    write: Write, q4_gguf: Path, changes: dict[str, tuple[int, ...] | None], match: str
) -> None:
    tensors = {
        name: None if shape is None else floats(name, *shape) for name, shape in changes.items()
    }
    refused(write(q4_gguf, tensors=tensors), match)


@pytest.mark.parametrize(
    "shape", [(256,), (256, 63), (256, 64, 1), (256, 2, 32), (256, 4, 8), (255, 4, 16), (0, 4, 16)]
)
def test_codes_of_another_shape_are_refused(
    write: Write, q4_gguf: Path, shape: tuple[int, ...]
) -> None:
    name = "output.weight.codes"
    tensors = {name: files.raw_tensor(name, 2, np.zeros(shape, np.uint8))}
    refused(write(q4_gguf, tensors=tensors), "output.weight has UINT8 .* which do not fit|ends at")


def test_weights_of_no_rows_are_refused(write: Write, q4_gguf: Path) -> None:
    name = "output.weight"
    tensors = {
        f"{name}.codes": files.raw_tensor(f"{name}.codes", 2, np.zeros((0, 4, 16), np.uint8)),
        f"{name}.scales": floats(f"{name}.scales", 0, 4),
    }
    refused(write(q4_gguf, tensors=tensors), r"output.weight is \[0, 128\]; its place needs \[256,")


@pytest.mark.parametrize("data_type", [2, 6, 7, 11])
def test_weights_of_another_type_are_refused(write: Write, f32_gguf: Path, data_type: int) -> None:
    name = "output.weight"
    dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    tensors = {name: files.raw_tensor(name, data_type, np.zeros((256, 128), dtype))}
    refused(write(f32_gguf, tensors=tensors), "output.weight is [A-Z0-9]+; weights are FLOAT, ")


def test_a_vector_of_16_bits_is_refused(write: Write, q4_gguf: Path) -> None:
    name = "output_norm.weight"
    tensors = {name: files.raw_tensor(name, FLOAT16, np.zeros(128, np.float16))}
    refused(write(q4_gguf, tensors=tensors), "output_norm.weight is F16; vectors are not quantized")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("tokens", None, "input tokens is missing; export it again"),
        ("tokens", (FLOAT, ["T"]), r"input tokens is FLOAT \[T\]; its model needs INT64 \[any\]"),
        ("tokens", (INT64, [1]), r"input tokens is INT64 \[1\]"),
        ("tokens", (INT64, ["B", "T"]), r"input tokens is INT64 \[B, T\]"),
        ("tokens", (INT64, None), "input tokens is INT64; its model needs"),
        ("wkv", None, "input wkv is missing"),
        ("wkv", (FLOAT, [3, 2, 64, 63]), r"input wkv is FLOAT \[3, 2, 64, 63\]; its model needs"),
        ("wkv", (FLOAT, ["L", 2, 64, 64]), r"input wkv is FLOAT \[L, 2, 64, 64\]"),
        ("att_x", (FLOAT16, [3, 128]), r"att_x is FLOAT16 \[3, 128\]; its model needs FLOAT \[3, "),
        ("logits_from", (INT64, [2]), "input logits_from is"),
        ("more", (INT64, [2]), "it has an input more, which none has"),
        ("logits", None, "output logits is missing"),
        ("logits", (FLOAT, ["n", 255]), r"output logits is FLOAT \[n, 255\]; .* \[any, 256\]"),
        ("new_ffn_x", (FLOAT, [2, 128]), r"output new_ffn_x is FLOAT \[2, 128\]"),
        ("new_wkv", None, "output new_wkv is missing"),
    ],
)
def test_a_graph_that_takes_or_gives_something_else_is_refused(
    write: Write, q4_gguf: Path, name: str, value: Any, match: str
) -> None:
    refused(write(q4_gguf, values={name: value}), match)


def test_a_graph_of_one_version_under_the_name_of_another_is_refused(
    write: Write, ggufs: Callable[[str, str], Path]
) -> None:
    path = write(ggufs("6", "F32"), keys={"general.architecture": "rwkv7"})
    refused(path, "key rwkv7.embedding_length is missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.model", None),
        ("tokenizer.ggml.model", 5),
        ("tokenizer.ggml.tokens", None),
        ("tokenizer.ggml.tokens", [1, 2]),
        ("tokenizer.ggml.tokens", ["a", 1]),
        ("tokenizer.ggml.token_type", [1]),
        ("rwkv_edge.tokenizer", [True]),
    ],
)
def test_a_damaged_tokenizer_is_refused(
    write: Write, words_gguf: Path, key: str, value: object
) -> None:
    refused(write(words_gguf, keys={key: value}), "tokenizer")


def test_closing_twice_is_harmless(write: Write, q4_gguf: Path) -> None:
    file = OnnxModelFile(write(q4_gguf))
    size = file.n_bytes
    file.close()
    file.close()
    assert file.n_bytes == size


def test_a_model_is_opened_by_what_it_holds_whatever_its_name(
    write: Write, q4_gguf: Path, tmp_path: Path
) -> None:
    made = write(q4_gguf)
    for path, source, kind in (
        ("m.onnx", made, OnnxModelFile),
        ("m.ONNX", made, OnnxModelFile),
        ("m.gguf", made, OnnxModelFile),
        ("m", made, OnnxModelFile),
        ("x.gguf", q4_gguf, ModelFile),
        ("x.onnx", q4_gguf, ModelFile),
    ):
        (tmp_path / path).write_bytes(source.read_bytes())
        with closing(open_model_file(tmp_path / path)) as file:
            assert type(file) is kind


def test_what_is_neither_a_gguf_nor_an_onnx_is_refused(tmp_path: Path) -> None:
    for name, content, match in (
        ("a.bin", b"something", "this is not a GGUF file"),
        ("a.pth", b"PK\x03\x04", "run rwkv-edge convert on it first"),
        ("a.gguf", b"", "the file is empty"),
        ("a.onnx", b"", "the file is empty"),
        ("a.onnx", b"something", "download or export it again"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=match):
            open_model_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_model_file(tmp_path / "none.onnx")


def test_a_rewritten_file_of_the_onnx_package_is_still_read(write: Write, q4_gguf: Path) -> None:
    """Tools that pass a model through put its fields in another order, and escape its JSON."""
    path = write(q4_gguf)
    model = onnx.load(path)
    for prop in model.metadata_props:
        prop.value = json.dumps(json.loads(prop.value), ensure_ascii=False, indent=1)
    copy = onnx.ModelProto()
    copy.graph.CopyFrom(model.graph)
    content = copy.SerializeToString()
    model.ClearField("graph")
    path.write_bytes(content + model.SerializeToString())
    with closing(OnnxModelFile(path)) as file:
        assert file.file_type == "Q4_0"
        assert file.tokenizer
