"""`rwkv-edge info` of ONNX files: ours, those of others, and the weights beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.apps.inspection import onnx_model, schema
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import (
    SYNTHETIC_VERSIONS,
    synthetic_hyperparameters,
    write_synthetic,
)

from .conftest import Run
from .test_info import described, engines

onnx = pytest.importorskip("onnx")
files = pytest.importorskip("tests.onnx_files")

FLOAT = 1
ONNXRUNTIME = "onnxruntime"
Convert = Callable[..., Path]


@pytest.fixture
def small(tmp_path: Path) -> Convert:
    """A small random model as a GGUF."""

    def made(version: str = "7", weight_type: str = "Q4_0") -> Path:
        hp = synthetic_hyperparameters(2, 64, version=version, n_vocab=256)
        write_synthetic(tmp_path / "m.pth", hp)
        convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
        return tmp_path / "m.gguf"

    return made


def write_foreign(path: Path, inputs: list[Any], producer: str = "pytorch") -> Path:
    """A graph of one matrix product."""
    h = onnx.helper
    nodes = [h.make_node("MatMul", ["x", "w"], ["y"]), h.make_node("Relu", ["y"], ["z"])]
    weights = [onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "w")]
    outputs = [h.make_tensor_value_info("z", FLOAT, ["batch", 4])]
    graph = h.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [h.make_opsetid("", 17)]
    model = h.make_model(
        graph, producer_name=producer, producer_version="2.4", opset_imports=opsets, ir_version=8
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("version", SYNTHETIC_VERSIONS)
def test_an_onnx_is_described_as_its_gguf_is(run: Run, small: Convert, version: str) -> None:
    gguf = small(version)
    path = files.write_onnx(gguf.with_suffix(".onnx"), gguf)
    found, wanted = described(run, path), described(run, gguf)
    assert (found["kind"], found["use"], found["container"]) == ("ONNX model", "run", "ONNX")
    for key in ("version", "hyperparameters", "tokenizer", "n_parameters"):
        assert found[key] == wanted[key]
    assert found["details"]["weight type"] == "Q4_0"
    assert found["n_bytes"] == path.stat().st_size
    assert found["advice"] == f"talk with it: rwkv-edge chat {path}"
    assert (found["memory"], found["targets"]) == (None, [])
    as_gguf = {t["name"]: (t["dtype"], t["shape"]) for t in wanted["tensors"]}
    as_onnx = {t["name"]: (t["dtype"], t["shape"]) for t in found["tensors"]}
    assert as_onnx.pop("logits_from") == ("INT64", [1])
    unread = {f"blk.0.time_mix_v{i}.weight" for i in range(3)} & as_gguf.keys()
    assert as_onnx == {name: as_gguf[name] for name in as_gguf.keys() - unread}
    sizes = {t["name"]: t["n_bytes"] for t in found["tensors"]}
    # A block of 32 takes 16 bytes of codes and 4 of its scale.
    assert sizes["output.weight"] == 256 * 64 // 32 * 20


def test_what_the_graph_takes_and_gives_is_listed(run: Run, small: Convert) -> None:
    gguf = small()
    path = files.write_onnx(gguf.with_suffix(".onnx"), gguf)
    found = described(run, path)
    assert found["inputs"][:3] == [
        {"name": "tokens", "dtype": "INT64", "shape": ["T"]},
        {"name": "att_x", "dtype": "FLOAT", "shape": [2, 64]},
        {"name": "wkv", "dtype": "FLOAT", "shape": [2, 1, 64, 64]},
    ]
    assert found["outputs"][0] == {"name": "logits", "dtype": "FLOAT", "shape": ["n", 256]}
    assert found["details"]["opset"] == "ai.onnx 21, com.microsoft 1"
    assert found["details"]["made by"] == "rwkv-edge 0"
    shown = run("info", path, "--tensors").out
    for words in ("2 x 1 x 64 x 64", "n x 256", "ai.onnx 21", "blk.1.time_mix_key.weight", "Q4_0"):
        assert words in shown


def test_the_onnx_engine_alone_runs_an_onnx(
    run: Run, small: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = small()
    path = files.write_onnx(gguf.with_suffix(".onnx"), gguf)
    said = engines(described(run, path))
    assert said.pop("onnx") is None
    assert set(said) == {"numba", "reference", "llama"}
    assert all(problem and "convert the checkpoint without" in problem for problem in said.values())
    (engine,) = (e for e in described(run, gguf)["engines"] if e["name"] == "onnx")
    assert engine["problem"] is None
    for module in (onnx_model, "rwkv_edge.apps.inspection.models"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(
            f"{name}.missing_package",
            lambda module, extra: schema.missing_package("no_such_module", extra),
        )
    assert 'onnx (after pip install "rwkv-edge[onnx]")' in run("info", path).out
    assert 'onnx (after pip install "rwkv-edge[onnx]")' in run("info", gguf).out


def test_a_gguf_says_how_it_comes_to_the_onnx_engine_or_why_it_does_not(
    run: Run, small: Convert
) -> None:
    pytest.importorskip(ONNXRUNTIME)
    (engine,) = (e for e in described(run, small())["engines"] if e["name"] == "onnx")
    assert engine == {"name": "onnx", "problem": None, "missing": "rwkv-edge convert --onnx"}
    said = engines(described(run, small(weight_type="Q5_0")))
    assert said["onnx"] == "an ONNX file cannot hold Q5_0"
    assert said["numba"] is None


def test_weights_beside_an_onnx_are_counted_and_missed(run: Run, small: Convert) -> None:
    gguf = small()
    path = files.write_onnx(gguf.with_suffix(".onnx"), gguf, data="m.0123abcd.data")
    data = path.with_name("m.0123abcd.data")
    found = described(run, path)
    assert found["n_bytes"] == path.stat().st_size + data.stat().st_size
    assert (found["use"], found["details"]["weights in"]) == ("run", "m.0123abcd.data")
    content = data.read_bytes()
    data.unlink()
    found = described(run, path)
    assert (found["kind"], found["use"], found["version"]) == ("ONNX model", "none", None)
    assert found["problem"].startswith("its weights lie in m.0123abcd.data, which is not there; ")
    assert found["details"]["weights in"] == "m.0123abcd.data, which is not there"
    data.write_bytes(content[:-1])
    assert run("info", path).failed_with("copy the file again")


def test_the_weights_beside_an_onnx_say_where_they_belong(
    run: Run, small: Convert, tmp_path: Path
) -> None:
    gguf = small()
    for name in ("a.onnx", "m.onnx"):
        files.write_onnx(tmp_path / name, gguf, data=f"{name[0]}.0123abcd.data")
    found = described(run, tmp_path / "m.0123abcd.data")
    assert (found["kind"], found["use"]) == ("weights of an ONNX", "none")
    assert found["problem"] == "it is no model by itself"
    assert found["advice"] == f"it belongs to m.onnx: rwkv-edge info {tmp_path / 'm.onnx'}"
    # Whatever else lies there.
    (tmp_path / "a.onnx").write_bytes(b"damaged")
    assert described(run, tmp_path / "m.0123abcd.data") == found
    lost = described(run, tmp_path / "a.0123abcd.data")
    assert lost["kind"] == "weights of an ONNX"
    assert lost["advice"].startswith("no ONNX in its folder refers to it")
    (tmp_path / "some.data").write_bytes(b"\x01\x02\x03")
    assert run("info", tmp_path / "some.data").failed_with("is neither a .pth nor")


def test_an_onnx_of_another_maker_is_described_as_far_as_can_be(run: Run, tmp_path: Path) -> None:
    h = onnx.helper
    inputs = [h.make_tensor_value_info("x", FLOAT, ["batch", 3])]
    found = described(run, write_foreign(tmp_path / "m.onnx", inputs))
    assert (found["kind"], found["use"]) == ("ONNX of another kind of model", "none")
    assert found["problem"].startswith("it is not an RWKV model of ours")
    assert found["details"] == {
        "made by": "pytorch 2.4", "opset": "ai.onnx 17", "graph": "2 nodes"
    }  # fmt: skip
    assert found["inputs"] == [{"name": "x", "dtype": "FLOAT", "shape": ["batch", 3]}]
    assert found["tensors"] == [{"name": "w", "dtype": "FLOAT", "shape": [3, 4], "n_bytes": 48}]
    assert (found["n_parameters"], found["tokenizer"], found["engines"]) == (12, None, [])


@pytest.mark.parametrize("location", ["../m.data", "/etc/passwd", "sub/m.data", "gone.data"])
def test_an_onnx_of_another_maker_may_name_any_file_which_is_not_opened(
    run: Run, tmp_path: Path, location: str
) -> None:
    path = write_foreign(tmp_path / "m.onnx", [])
    model = onnx.load(path)
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    found = described(run, path)
    assert found["details"]["weights in"] == f"{location}, which is not there"
    assert found["n_bytes"] == path.stat().st_size


def test_a_graph_of_many_inputs_is_cut_short_for_people_alone(run: Run, tmp_path: Path) -> None:
    h = onnx.helper
    inputs = [h.make_tensor_value_info(f"past.{i}", FLOAT, ["n", 4]) for i in range(100)]
    path = write_foreign(tmp_path / "m.onnx", inputs)
    assert len(described(run, path)["inputs"]) == 100
    shown = run("info", path).out
    assert "past.15 " in shown
    assert "past.16 " not in shown
    assert "and 84 more" in shown


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"rwkv_edge.onnx_format": 2}, "is an ONNX of format 2, made by a newer rwkv-edge"),
        ({"general.architecture": "rwkv9"}, "its architecture is rwkv9; this version runs"),
        ({"tokenizer.ggml.model": "gpt2"}, "its tokenizer cannot be used: its tokenizer is gpt2"),
        ({"tokenizer.ggml.model": 7}, "its tokenizer cannot be used: key tokenizer.ggml.model is"),
    ],
)
def test_an_onnx_of_ours_that_cannot_be_run_says_why(
    run: Run, small: Convert, keys: dict[str, object], problem: str
) -> None:
    gguf = small()
    found = described(run, files.write_onnx(gguf.with_suffix(".onnx"), gguf, keys=keys))
    assert (found["kind"], found["use"]) == ("ONNX model", "none")
    assert found["problem"].startswith(problem)


def test_an_onnx_that_is_damaged_is_one_line(run: Run, small: Convert) -> None:
    gguf = small()
    path = files.write_onnx(gguf.with_suffix(".onnx"), gguf, tensors={"output_norm.weight": None})
    assert run("info", path).failed_with("tensor output_norm.weight is missing; export it again")
    path.write_bytes(path.read_bytes()[:1000])
    assert run("info", path).failed_with("the file ends inside field")


def test_an_onnx_is_no_checkpoint_which_is_said_with_what_to_do(run: Run, small: Convert) -> None:
    gguf = small()
    path = files.write_onnx(gguf.with_suffix(".onnx"), gguf)
    wanted = "is an ONNX; convert the checkpoint or the GGUF that it was made from"
    assert run("convert", path, "-o", path.with_name("x.gguf")).failed_with(wanted)
    renamed = path.rename(path.with_name("m.pth"))
    assert run("convert", renamed, "-o", path.with_name("x.gguf")).failed_with(wanted)
    source = gguf.with_suffix(".onnx")
    files.write_onnx(source, gguf)
    assert run("convert", gguf, "--lora", source, "--alpha", 8, "-o", path).failed_with(wanted)


def test_names_out_of_an_onnx_do_not_reach_the_terminal_as_they_are(
    run: Run, tmp_path: Path
) -> None:
    evil = "\x1b[2J\x1b]0;gone\x07\n"
    inputs = [onnx.helper.make_tensor_value_info(evil, FLOAT, [evil])]
    found = run("info", write_foreign(tmp_path / "m.onnx", inputs, evil), "--tensors")
    assert found.code == 0
    assert "\x1b" not in found.out
    assert "\x07" not in found.out


def test_words_of_an_onnx_fit_into_80_columns(
    run: Run, small: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files.write_onnx(Path("m.onnx"), small(), data="m.0123abcd.data")
    for name in ("m.onnx", "m.0123abcd.data", "m.gguf"):
        for line in run("info", name).out.splitlines():
            assert len(line) <= 80 or line.startswith(("next ", "problem ")), line
    assert json.loads(run("info", "m.onnx", "--json").out)["format"] == 1
