"""An exported model holds the numbers of the GGUF of the same type, and everything it says."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, quants

pytest.importorskip("onnx")
import onnx
from onnx import TensorProto, helper, numpy_helper

from rwkv_edge.arch import architecture_of
from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.adapters import Adapter, TunedState
from rwkv_edge.converters.convert import ConversionSummary, convert
from rwkv_edge.converters.onnx.export import convert_to_onnx, planned_onnx
from rwkv_edge.converters.onnx.stored_weights import STORED
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import (
    BackendUnavailableError,
    FormatError,
    InputError,
    RwkvEdgeError,
    UnsupportedModelError,
)
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.onnx_model_file import HELD_TYPES, OnnxModelFile
from rwkv_edge.quant import BF16
from tests.converters.adapters.adapter_files import lora_of, numbers, write_pth
from tests.converters.foreign_names import tiny_model
from tests.converters.onnx.exported import Exported, read_exported

VERSIONS = ["4", "5.0", "5.1", "5.2", "6", "7", "7a"]


def decoded(gguf: Path) -> dict[str, Any]:
    """Every tensor of a GGUF as float32, by gguf-py."""
    return {
        tensor.name: quants.dequantize(
            tensor.data.view(np.uint8), GGMLQuantizationType(tensor.tensor_type)
        ).reshape(tuple(reversed(tensor.shape.tolist())))
        for tensor in GGUFReader(gguf).tensors
    }


def assert_same_weights(found: Exported, gguf: Path, hp: Hyperparameters) -> None:
    wanted = decoded(gguf)
    unread = architecture_of(hp.version).unread(hp)
    stems = {name.removesuffix(".codes").removesuffix(".scales") for name in found.arrays}
    assert set(wanted) - stems == set(unread)
    assert not stems & set(unread)
    for name in set(wanted) - set(unread):
        weights = found.weights(name)
        np.testing.assert_array_equal(weights, wanted[name].reshape(weights.shape), err_msg=name)


def gguf_keys(gguf: Path) -> dict[str, Any]:
    """The keys of a GGUF as JSON has them."""

    def plain(value: object) -> object:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, list):
            return [item.decode() for item in value]
        return value

    with GgufFile(gguf) as file:
        return {key: plain(value) for key, value in file.metadata.items()}


def fingerprint_of(gguf: Path) -> str:
    file = ModelFile(gguf)
    try:
        return file.fingerprint
    finally:
        file.close()


def assert_same_keys(found: Exported, gguf: Path) -> None:
    keys = dict(found.keys)
    assert keys.pop("rwkv_edge.onnx_format") == 1
    assert keys.pop("rwkv_edge.fingerprint") == fingerprint_of(gguf)
    assert keys == gguf_keys(gguf)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def check(path: Path) -> None:
    """By its path, so that a data file is looked at, too."""
    onnx.checker.check_model(path, full_check=True)


@pytest.mark.parametrize("weight_type", HELD_TYPES)
@pytest.mark.parametrize("version", VERSIONS)
def test_weights_and_keys_are_those_of_the_gguf(
    tmp_path: Path, version: str, weight_type: str
) -> None:
    hp = tiny_model(version)
    write_synthetic(tmp_path / "m.pth", hp)
    gguf = convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type).path
    for external in (False, True):
        summary = convert_to_onnx(
            tmp_path / "m.pth", tmp_path / "m.onnx", weight_type, external_data=external
        )
        check(summary.path)
        found = read_exported(summary.path)
        assert_same_weights(found, gguf, hp)
        assert_same_keys(found, gguf)
        assert_opens_as(summary, gguf)


def assert_opens_as(summary: ConversionSummary, gguf: Path) -> None:
    """What our own reader says of it is what it says of the GGUF."""
    one, other = OnnxModelFile(summary.path), ModelFile(gguf)
    try:
        for what in ("hyperparameters", "fingerprint", "file_type", "n_parameters", "name"):
            assert getattr(one, what) == getattr(other, what), what
        assert one.n_bytes == summary.n_bytes + summary.data_bytes
        for name, quant in one.formats.items():
            assert quant is other.tensor(name).quant_format
        assert one.tokenizer.encode("Words.") == other.tokenizer.encode("Words.")
    finally:
        one.close()
        other.close()


def test_the_types_are_those_that_have_a_form_in_onnx() -> None:
    assert set(HELD_TYPES) == {quant.__name__ for quant in STORED}


@pytest.mark.parametrize(("weight_type", "bits"), [("Q4_0", 4), ("Q8_0", 8)])
def test_onnxruntime_decodes_the_codes_as_ggml_does(
    tmp_path: Path, tiny_pth: Path, weight_type: str, bits: int
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    gguf = convert(tiny_pth, tmp_path / "m.gguf", weight_type).path
    found = read_exported(convert_to_onnx(tiny_pth, tmp_path / "m.onnx", weight_type).path)
    wanted = decoded(gguf)

    def run(node: "onnx.NodeProto", name: str, **inputs: Any) -> Any:
        parts = [numpy_helper.from_array(found.arrays[f"{name}.{part}"], part)
                 for part in ("codes", "scales")]  # fmt: skip
        described = [
            helper.make_tensor_value_info(
                key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for key, value in inputs.items()
        ]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "g", described, [output], parts)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        return session.run(None, inputs)[0]

    name = "blk.1.channel_mix_value.weight"
    n_rows, n_columns = wanted[name].shape
    options = {"bits": bits, "block_size": 32, "domain": "com.microsoft"}
    product = helper.make_node(
        "MatMulNBits", ["x", "codes", "scales"], ["y"], K=n_columns, N=n_rows, **options
    )
    # Each row picks one column: all else is multiplied with zero, so nothing is rounded.
    picked = run(product, name, x=np.eye(n_columns, dtype=np.float32))
    np.testing.assert_array_equal(picked.T, wanted[name])
    name = "token_embd.weight"
    rows = helper.make_node(
        "GatherBlockQuantized", ["codes", "i", "scales"], ["y"],
        gather_axis=0, quantize_axis=1, **options,
    )  # fmt: skip
    i = np.arange(len(wanted[name]), dtype=np.int64)
    np.testing.assert_array_equal(run(rows, name, i=i), wanted[name])


def test_the_whole_model_runs_with_and_without_a_data_file(tmp_path: Path, tiny_pth: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    logits = []
    for external in (False, True):
        path = tmp_path / f"{external}.onnx"
        convert_to_onnx(tiny_pth, path, external_data=external)
        session = onnxruntime.InferenceSession(path)
        shapes = {one.name: one.shape for one in session.get_inputs()}
        state = {
            name: np.zeros(shape, np.float32)
            for name, shape in shapes.items()
            if name not in ("tokens", "logits_from")
        }
        logits.append(session.run(["logits"], {"tokens": np.array([1, 2, 3]), **state})[0])
    assert np.std(logits[0]) > 0.1
    np.testing.assert_array_equal(logits[0], logits[1])


@pytest.fixture
def adapted(tmp_path: Path, tiny_pth: Path, tiny: Rwkv7Hyperparameters) -> list[Any]:
    lora = write_pth(tmp_path / "lora.pth", lora_of(tiny_pth, 4, part="att.key"))
    states = {f"blocks.{i}.att.time_state": numbers(i, 2, 64, 64) for i in range(tiny.n_layer)}
    state = write_pth(tmp_path / "state.pth", states)
    return [Adapter(lora, alpha=8), TunedState(state)]


def test_adapters_and_tuned_states_go_in_as_into_a_gguf(
    tmp_path: Path, tiny_pth: Path, tiny: Rwkv7Hyperparameters, adapted: list[Any]
) -> None:
    gguf = convert(tiny_pth, tmp_path / "m.gguf", "Q8_0", adapters=adapted).path
    path = convert_to_onnx(tiny_pth, tmp_path / "m.onnx", "Q8_0", adapters=adapted).path
    found = read_exported(path)
    assert_same_weights(found, gguf, tiny)
    assert_same_keys(found, gguf)
    plain = convert(tiny_pth, tmp_path / "plain.gguf", "Q8_0").path
    assert found.keys["rwkv_edge.fingerprint"] != fingerprint_of(plain)


@pytest.mark.parametrize("weight_type", HELD_TYPES)
@pytest.mark.parametrize("version", ["4", "6", "7a"])
def test_a_gguf_that_keeps_its_types_gives_the_file_of_its_checkpoint(
    tmp_path: Path, version: str, weight_type: str
) -> None:
    write_synthetic(tmp_path / "m.pth", tiny_model(version))
    wanted = convert_to_onnx(tmp_path / "m.pth", tmp_path / "wanted.onnx", weight_type)
    gguf = convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type).path
    found = convert_to_onnx(gguf, tmp_path / "found.onnx", None)
    assert found.path.read_bytes() == wanted.path.read_bytes()
    assert (found.weight_type, found.n_tensors) == (weight_type, wanted.n_tensors)


def test_a_gguf_of_several_types_keeps_each(
    tmp_path: Path, tiny: Rwkv7Hyperparameters, q4_gguf: Path, altered_gguf: Callable[..., Path]
) -> None:
    random = np.random.default_rng(0)
    lerps = random.normal(size=(6, 1, 1, tiny.n_embd)).astype(np.float16)
    head = decoded(q4_gguf)["output.weight"]
    w1 = BF16.encode(decoded(q4_gguf)["blk.1.time_mix_w1.weight"])
    gguf = altered_gguf(
        q4_gguf,
        keys={"general.file_type": None, "my.key": "mine"},
        tensors={
            "blk.1.time_mix_lerp_fused.weight": (lerps, "F16"),
            "blk.1.time_mix_w1.weight": (w1, "BF16"),
            "output.weight": (head.astype(np.float32), "F32"),
        },
    )
    summary = convert_to_onnx(gguf, tmp_path / "m.onnx", None)
    found = read_exported(summary.path)
    check(summary.path)
    assert_same_weights(found, gguf, tiny)
    assert found.arrays["blk.1.time_mix_lerp_fused.weight"].dtype == np.float32
    assert found.arrays["blk.1.time_mix_w1.weight"].dtype.itemsize == 2
    assert found.arrays["output.weight"].dtype == np.float32
    assert found.arrays["token_embd.weight.codes"].dtype == np.uint8
    assert found.keys["my.key"] == "mine"
    # float16 vectors count by the float32 that they stand for.
    assert found.keys["rwkv_edge.fingerprint"] == fingerprint_of(gguf)


def test_large_tensors_are_copied_in_parts(
    tmp_path: Path, q8_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwkv_edge.converters import convert as conversion

    whole = convert_to_onnx(q8_gguf, tmp_path / "whole.onnx", None).path.read_bytes()
    monkeypatch.setattr(conversion, "COPIED_BYTES", 1000)
    assert convert_to_onnx(q8_gguf, tmp_path / "m.onnx", None).path.read_bytes() == whole


def test_a_tuned_state_goes_beside_kept_types(
    tmp_path: Path, tiny: Rwkv7Hyperparameters, q4_gguf: Path, adapted: list[Any]
) -> None:
    found = read_exported(
        convert_to_onnx(q4_gguf, tmp_path / "m.onnx", None, adapters=adapted[1:]).path
    )
    assert_same_weights(found, q4_gguf, tiny)
    assert len(found.keys["rwkv_edge.tuned_state"]) == tiny.n_layer
    with pytest.raises(InputError, match="not into a GGUF"):
        convert_to_onnx(q4_gguf, tmp_path / "m.onnx", None, adapters=adapted[:1])


@pytest.mark.parametrize(("weight_type", "quant"), [("Q5_0", "Q5_0"), ("Q4_K_M", "Q4_K")])
def test_a_type_that_onnx_does_not_hold_is_refused_by_its_tensor(
    tmp_path: Path, weight_type: str, quant: str
) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 256, n_vocab=256))
    gguf = convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type).path
    message = rf"m\.gguf: token_embd\.weight is {quant}; an ONNX model holds F32.*convert the \.pth"
    with pytest.raises(UnsupportedModelError, match=message):
        convert_to_onnx(gguf, tmp_path / "m.onnx", None)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("weight_type", ["Q4_K_M", "Q6_K", "Q9"])
def test_a_weight_type_that_onnx_does_not_hold_is_refused(
    tmp_path: Path, tiny_pth: Path, weight_type: str
) -> None:
    with pytest.raises(InputError, match=rf"{weight_type}: an ONNX .* F32, F16, BF16, Q8_0, Q4_0;"):
        convert_to_onnx(tiny_pth, tmp_path / "m.onnx", weight_type)


def test_only_a_gguf_has_types_to_keep(tmp_path: Path, tiny_pth: Path) -> None:
    with pytest.raises(InputError, match=r"tiny\.pth: is no GGUF.*name a weight type"):
        convert_to_onnx(tiny_pth, tmp_path / "m.onnx", None)


def test_a_quantized_gguf_is_not_quantized_again(tmp_path: Path, q4_gguf: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"Q4_0 already.*without a weight type"):
        convert_to_onnx(q4_gguf, tmp_path / "m.onnx", "Q8_0")


def test_without_the_onnx_package_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "rwkv-edge\[onnx\]"'):
        convert_to_onnx(tmp_path / "nowhere.pth", tmp_path / "m.onnx")


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("weight_type", HELD_TYPES)
def test_the_sizes_are_planned_to_the_byte(
    tmp_path: Path, tiny_pth: Path, adapted: list[Any], weight_type: str, external: bool
) -> None:
    options: dict[str, Any] = {"adapters": adapted, "external_data": external}
    out = tmp_path / "m.onnx"
    with planned_onnx(tiny_pth, out, weight_type, **options) as plan:
        assert not out.exists()
        sizes = plan.layout.model_bytes, plan.layout.data_bytes
    summary = convert_to_onnx(tiny_pth, out, weight_type, **options)
    assert (summary.n_bytes, summary.data_bytes) == sizes
    assert out.stat().st_size == sizes[0]
    assert (summary.data_path is not None) == external
    if summary.data_path is not None:
        assert summary.data_path.stat().st_size == sizes[1]


def test_progress_runs_from_nothing_to_all(tmp_path: Path, tiny_pth: Path) -> None:
    calls: list[tuple[int, int]] = []
    summary = convert_to_onnx(
        tiny_pth, tmp_path / "m.onnx", progress=lambda done, total: calls.append((done, total))
    )
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert done[-1] == calls[0][1] < summary.n_bytes
    assert len({total for _, total in calls}) == 1


def test_a_model_past_two_gigabytes_gets_a_data_file_and_a_note(
    tmp_path: Path, tiny_pth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwkv_edge.converters.onnx import model_writer

    monkeypatch.setattr(model_writer, "MAX_MODEL_BYTES", 500_000)
    summary = convert_to_onnx(tiny_pth, tmp_path / "m.onnx")
    assert summary.data_path is not None
    assert "protobuf holds no more than 2 GB" in summary.notes[-1]
    asked_for = convert_to_onnx(tiny_pth, tmp_path / "m.onnx", external_data=True)
    assert asked_for.notes == ()


@pytest.mark.parametrize("external", [False, True])
def test_a_weight_that_is_no_number_leaves_nothing(
    tmp_path: Path, tiny: Rwkv7Hyperparameters, external: bool
) -> None:
    from tests.converters.test_convert import rewrite

    write_synthetic(tmp_path / "m.pth", tiny)
    bad = np.full((tiny.n_vocab, tiny.n_embd), np.nan, np.float32)
    rewrite(tmp_path / "m.pth", tmp_path / "bad.pth", {"head.weight": bad})
    before = names(tmp_path)
    with pytest.raises(FormatError, match=r"bad\.pth: head\.weight: holds NaN"):
        convert_to_onnx(tmp_path / "bad.pth", tmp_path / "m.onnx", external_data=external)
    assert names(tmp_path) == before


def test_too_little_space_for_both_files_is_said_before_anything_is_written(
    tmp_path: Path, tiny_pth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=(16 << 20) + 700_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    for external in (False, True):
        with pytest.raises(RwkvEdgeError, match=r"m\.onnx: needs \d+ bytes on its disk"):
            convert_to_onnx(tiny_pth, tmp_path / "m.onnx", external_data=external)
    assert names(tmp_path) == ["tiny.pth"]
    assert convert(tiny_pth, tmp_path / "m.gguf").n_bytes < 700_000


def test_the_checkpoint_is_never_overwritten(tmp_path: Path, tiny_pth: Path, q4_gguf: Path) -> None:
    before = tiny_pth.read_bytes()
    with pytest.raises(InputError, match="is the checkpoint itself"):
        convert_to_onnx(tiny_pth, tiny_pth)
    with pytest.raises(InputError, match="is the checkpoint itself"):
        convert_to_onnx(q4_gguf, q4_gguf, None)
    assert tiny_pth.read_bytes() == before
    with pytest.raises(InputError, match="threads 0"):
        convert_to_onnx(tiny_pth, tmp_path / "m.onnx", threads=0)


def test_the_output_is_the_same_each_time(tmp_path: Path, tiny_pth: Path) -> None:
    one = convert_to_onnx(tiny_pth, tmp_path / "a.onnx", threads=1).path.read_bytes()
    other = convert_to_onnx(tiny_pth, tmp_path / "b.onnx", threads=2).path.read_bytes()
    assert one == other
