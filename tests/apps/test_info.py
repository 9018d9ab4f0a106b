"""`rwkv-edge info`: every file that people have, told apart, described, and sent on its way."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from rwkv_edge import Model
from rwkv_edge.apps.inspection import schema
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import (
    SYNTHETIC_VERSIONS,
    synthetic_hyperparameters,
    write_synthetic,
)
from rwkv_edge.converters.weight_types import FILE_TYPES
from rwkv_edge.quant import QUANT_FORMATS
from rwkv_edge.runtime.footprint import MemoryEstimate
from tests.converters.checkpoints.rwkv_cpp_writer import write_rwkv_cpp
from tests.converters.foreign_names import fla_7, rwkv_cpp, write_tiny

from .conftest import Run

DOCS = Path(__file__).resolve().parents[2] / "docs" / "file-info.md"
# A type of ggml's that nothing here reads.
UNREAD = gguf.GGMLQuantizationType.IQ2_XXS
assert UNREAD not in {quant.ggml_type for quant in QUANT_FORMATS.values()}


def described(run: Run, path: Path) -> dict[str, Any]:
    """The JSON, after the words for a person: both must work on every file."""
    shown = run("info", path)
    assert (shown.code, shown.err) == (0, "")
    assert str(path) in shown.out
    found: dict[str, Any] = json.loads(run("info", path, "--json").out)
    assert found["path"] == str(path)
    for sentence in (found["problem"], found["advice"]):
        assert sentence is None or sentence in shown.out
    return found


def weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A safetensors file with tensors of these shapes."""
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path)
    return path


def engines(found: dict[str, Any]) -> dict[str, str | None]:
    return {engine["name"]: engine["problem"] for engine in found["engines"]}


@pytest.fixture
def other_pth(tmp_path: Path) -> Path:
    """A small random checkpoint over bytes."""
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(2, 64, n_vocab=256))
    return tmp_path / "m.pth"


def test_a_gguf_is_described(run: Run, gguf: Path) -> None:
    found = described(run, gguf)
    assert (found["kind"], found["use"], found["container"]) == ("GGUF model", "run", "GGUF")
    assert found["n_bytes"] == gguf.stat().st_size
    with Model.load(gguf, "reference") as model:
        assert found["hyperparameters"]["n_embd"] == model.hyperparameters.n_embd
        assert found["n_parameters"] == model.info.n_parameters
        assert found["details"]["weight type"] == model.info.file_type
    assert {tensor["dtype"] for tensor in found["tensors"]} == {"Q8_0", "F16", "F32"}
    assert engines(found) == {"numba": None, "reference": None, "llama": None, "onnx": None}
    assert found["memory"]["resident"] > found["memory"]["weights"] > 0
    assert (found["version"], found["tokenizer"]["kind"]) == ("7", "world")
    shown = run("info", gguf, "--tensors").out
    assert "RWKV-7" in shown
    assert "blk.0.time_mix_key.weight" in shown


def test_a_checkpoint_is_described(run: Run, pth: Path) -> None:
    found = described(run, pth)
    assert (found["kind"], found["use"], found["version"]) == ("checkpoint", "convert", "7")
    names = {tensor["name"] for tensor in found["tensors"]}
    assert {"emb.weight", "blocks.0.att.r_k", "head.weight"} <= names
    assert found["tokenizer"]["origin"].endswith(".vocab.txt")
    assert [target["weight_type"] for target in found["targets"]] == list(FILE_TYPES)
    assert found["advice"] == f"convert it: rwkv-edge convert {pth}"


@pytest.mark.parametrize("weight_type", FILE_TYPES)
def test_the_size_of_a_conversion_is_said_to_the_byte(
    run: Run, other_pth: Path, weight_type: str
) -> None:
    (target,) = (
        target
        for target in described(run, other_pth)["targets"]
        if target["weight_type"] == weight_type
    )
    written = other_pth.with_suffix(".gguf")
    convert(other_pth, written, weight_type)
    assert target["is_exact"]
    assert target["n_bytes"] == written.stat().st_size
    assert target["memory"] == described(run, written)["memory"]


@pytest.mark.parametrize("version", SYNTHETIC_VERSIONS)
def test_every_version_says_which_engines_run_it(run: Run, tmp_path: Path, version: str) -> None:
    hp = synthetic_hyperparameters(2, 64, version=version, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "Q8_0")
    for path in (tmp_path / "m.pth", tmp_path / "m.gguf"):
        found = described(run, path)
        assert found["version"] == version
        assert found["hyperparameters"] == dataclasses.asdict(hp)
        said = engines(found)
        assert said["numba"] is None
        assert (said["llama"] is None) == (version in ("6", "7"))
        assert f"RWKV-{version}" in run("info", path).out


def test_a_shape_that_only_the_reference_runs_is_said(run: Run, tmp_path: Path) -> None:
    hp = synthetic_hyperparameters(1, 72, head_size=8, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    found = engines(described(run, tmp_path / "m.pth"))
    assert "multiple of 16" in str(found["numba"])
    assert found["reference"] is None


def test_an_engine_that_is_not_installed_is_said(
    run: Run, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rwkv_edge.apps.inspection.models.missing_package",
        lambda module, extra: schema.missing_package("no_such_module", extra),
    )
    (llama,) = (e for e in described(run, gguf)["engines"] if e["name"] == "llama")
    assert llama["missing"] == 'pip install "rwkv-edge[llama]"'
    assert 'llama (after pip install "rwkv-edge[llama]")' in run("info", gguf).out
    assert 'onnx (after pip install "rwkv-edge[onnx]")' in run("info", gguf).out


def test_a_tokenizer_that_is_not_there_is_asked_for(run: Run, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 64, n_vocab=640))
    found = described(run, tmp_path / "m.pth")
    assert found["use"] == "convert"
    assert found["tokenizer"]["kind"] is None
    assert "has 640 embeddings" in found["tokenizer"]["problem"]
    assert "--tokenizer FILE" in found["advice"]
    assert not any(target["is_exact"] for target in found["targets"])
    assert "without the tokenizer" in run("info", tmp_path / "m.pth").out


def write_foreign(path: Path, architecture: str, **texts: str) -> Path:
    """A GGUF of one tensor, in a type that nothing here reads."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in texts.items():
        writer.add_string(key.replace("__", "."), value)
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[UNREAD]
    data = np.zeros((5, 2 * block_bytes), np.uint8)
    writer.add_tensor("token_embd.weight", data, raw_dtype=UNREAD)
    assert block_len == 256
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_of_another_architecture_is_listed_with_ggmls_names(
    run: Run, tmp_path: Path
) -> None:
    path = write_foreign(tmp_path / "m.gguf", "llama", tokenizer__ggml__model="gpt2")
    found = described(run, path)
    assert (found["kind"], found["use"]) == ("GGUF of another kind of model", "none")
    assert found["problem"].startswith("its architecture is llama; this version runs rwkv4, ")
    (tensor,) = found["tensors"]
    assert tensor == {
        "name": "token_embd.weight", "dtype": UNREAD.name, "shape": [5, 512],
        "n_bytes": 5 * 2 * gguf.GGML_QUANT_SIZES[UNREAD][1],
    }  # fmt: skip
    assert found["types"] == [{"dtype": UNREAD.name, "n_tensors": 1, "n_bytes": tensor["n_bytes"]}]
    assert found["n_parameters"] == 5 * 512
    assert found["tokenizer"]["kind"] is None
    assert found["tokenizer"]["llama_cpp"] == "gpt2"


def test_an_rwkv_in_a_type_that_is_not_read_says_which(
    run: Run, tmp_path: Path, other_pth: Path
) -> None:
    convert(other_pth, tmp_path / "m.gguf", "F32")
    content = (tmp_path / "m.gguf").read_bytes()
    # The table of tensors ends each row with a type and an offset.
    name = b"blk.0.time_mix_key.weight"
    start = content.index(name) + len(name) + 4 + 2 * 8
    altered = content[:start] + int(gguf.GGMLQuantizationType.I32).to_bytes(4, "little")
    (tmp_path / "m.gguf").write_bytes(altered + content[start + 4 :])
    found = described(run, tmp_path / "m.gguf")
    assert (found["kind"], found["use"], found["version"]) == ("GGUF model", "none", "7")
    assert found["problem"].startswith("its weights are I32, which this version does not run")
    assert {total["dtype"] for total in found["types"]} == {"F32", "I32"}


def test_a_state_is_described(run: Run, gguf: Path, tmp_path: Path) -> None:
    state = tmp_path / "a.state"
    run("generate", gguf, "a", "-n", 1, "--save-state", state)
    found = described(run, state)
    assert (found["kind"], found["use"]) == ("state of a conversation", "resume")
    assert found["version"] == "7"
    assert {tensor["name"] for tensor in found["tensors"]} == {"att_x", "wkv", "ffn_x"}
    assert f"--state {state}" in found["advice"]


LORA = {"blocks.0.att.key.lora_A": (8, 64), "blocks.0.att.key.lora_B": (64, 8)}
ADAPTERS: dict[str, tuple[dict[str, tuple[int, ...]], str, str, str]] = {
    "lora": (LORA, "adapter: a LoRA or PiSSA", "8", "--lora {} --alpha N"),
    "of peft": (
        {
            "base_model.model.blocks.0.att.key.lora_A.weight": (16, 64),
            "base_model.model.blocks.0.att.key.lora_B.weight": (64, 16),
        },
        "adapter: a LoRA or PiSSA", "16", "--lora {} --alpha N",
    ),
    "with whole tensors and a state": (
        {**LORA, "blocks.0.ln1.weight": (64,), "blocks.0.att.time_state": (1, 64, 64)},
        "adapter: a LoRA or PiSSA", "8", "--lora {} --alpha N",
    ),
    "pissa's beginning": (
        {"blocks.0.att.key.init_lora_A": (4, 64), "blocks.0.att.key.init_lora_B": (64, 4)},
        "adapter: the beginning of a PiSSA", "4", "--pissa-init {}",
    ),
    "disha": ({"blocks.1.ffn.key.disha": (32, 256)}, "adapter: a DiSHA", "32", "--adapter {}"),
    "bat": ({"blocks.1.ffn.key.disha": (2, 32, 32)}, "adapter: a DiSHA", "32", "--adapter {}"),
    "bone": ({"blocks.1.ffn.key.bone": (64, 256)}, "adapter: a DiSHA", "64", "--adapter {}"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_told_by_its_names(run: Run, tmp_path: Path, name: str) -> None:
    shapes, kind, rank, option = ADAPTERS[name]
    path = weights(tmp_path / "a.st", shapes)
    found = described(run, path)
    assert (found["kind"], found["use"]) == (kind, "adapt")
    assert found["details"]["rank"] == rank
    assert found["details"]["changes"].endswith("; of 1 layers")
    assert option.format(path) in found["advice"]
    assert ("whole tensors" in found["details"]) == (name == "with whole tensors and a state")
    assert ("tuned state" in found["details"]) == (name == "with whole tensors and a state")


def test_a_tuned_state_is_no_model_and_no_conversation(run: Run, tmp_path: Path) -> None:
    shapes = {f"blocks.{i}.att.time_state": (2, 64, 64) for i in range(3)}
    path = weights(tmp_path / "a.st", shapes)
    found = described(run, path)
    assert (found["kind"], found["use"]) == ("tuned state", "adapt")
    assert found["details"] == {"layers": "3", "state of a layer": "2 x 64 x 64"}
    assert f"--state {path}" in found["advice"]


def test_a_tuned_state_inside_a_checkpoint_is_said(run: Run, tmp_path: Path) -> None:
    hp = synthetic_hyperparameters(2, 64, n_vocab=256)
    states = {f"blocks.{i}.att.time_state": (1, 64, 64) for i in range(2)}
    path = weights(tmp_path / "m.st", SYNTHETIC_VERSIONS["7"].shapes(hp) | states)
    found = described(run, path)
    assert (found["kind"], found["use"]) == ("checkpoint", "convert")
    assert found["details"]["tuned state"].startswith("inside")
    convert(path, tmp_path / "m.gguf", "F16")
    (size,) = (t["n_bytes"] for t in found["targets"] if t["weight_type"] == "F16")
    assert size == (tmp_path / "m.gguf").stat().st_size


def test_part_of_a_checkpoint_is_said(run: Run, tmp_path: Path) -> None:
    path = weights(tmp_path / "a.st", {"blocks.0.ln1.weight": (64,), "blocks.1.att.x_r": (64,)})
    found = described(run, path)
    assert (found["kind"], found["use"]) == ("part of a checkpoint", "none")
    assert f"--adapter {path}" in found["advice"]


@pytest.mark.parametrize(
    ("extra", "version", "reason"),
    [
        ({"blocks.0.qkv.qq.weight": (64, 64)}, "7b", "memory grows"),
        ({"blocks.0.ffn.enn.weight": (64, 64)}, "8", "release candidate"),
    ],
)
def test_a_version_that_is_not_run_is_named_with_the_reason(
    run: Run, tmp_path: Path, extra: dict[str, tuple[int, ...]], version: str, reason: str
) -> None:
    hp = synthetic_hyperparameters(1, 64, n_vocab=256)
    shapes = {**SYNTHETIC_VERSIONS["7"].shapes(hp), **extra}
    found = described(run, weights(tmp_path / "m.st", shapes))
    assert (found["kind"], found["use"], found["version"]) == ("checkpoint", "none", version)
    assert reason in found["problem"]


def test_weights_of_another_model_are_listed(run: Run, tmp_path: Path) -> None:
    found = described(run, weights(tmp_path / "a.safetensors", {"a.weight": (3, 4)}))
    assert (found["kind"], found["use"]) == ("weights of another kind of model", "none")
    assert found["hyperparameters"] is None
    assert "not named as in any RWKV" in found["problem"]
    (tensor,) = found["tensors"]
    assert (tensor["shape"], tensor["n_bytes"]) == ([3, 4], 48)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_hugging_face_folder_is_described(run: Run, tmp_path: Path, sharded: bool) -> None:
    own = write_tiny(tmp_path / "m.pth", "7")
    tensors = fla_7(own)
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv7"}))
    if sharded:
        names = list(tensors)
        weight_map = {}
        for number, part in enumerate((names[:9], names[9:]), 1):
            save_file(
                {name: tensors[name] for name in part}, folder / f"model-{number}.safetensors"
            )
            weight_map |= dict.fromkeys(part, f"model-{number}.safetensors")
        index = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(index)
    else:
        save_file(tensors, folder / "model.safetensors")
    found = described(run, folder)
    assert (found["kind"], found["use"], found["version"]) == ("checkpoint", "convert", "7")
    assert found["container"] == "a Hugging Face folder"
    assert "flash-linear-attention" in found["details"]["names"]
    parts = folder.glob("*.safetensors")
    assert found["n_bytes"] == sum(path.stat().st_size for path in parts)
    assert found["advice"] == f"convert it: rwkv-edge convert '{folder}'"
    convert(folder, tmp_path / "m.gguf", "Q8_0")
    (size,) = (t["n_bytes"] for t in found["targets"] if t["weight_type"] == "Q8_0")
    assert size == (tmp_path / "m.gguf").stat().st_size
    # Parts by themselves are sent to the folder.
    for path in folder.glob("*.json"):
        assert "name the folder" in described(run, path)["advice"]


@pytest.mark.parametrize("kind", ["FP32", "FP16", "Q4_0", "Q5_1", "Q8_0"])
def test_a_file_of_rwkv_cpp_is_described_as_it_is_stored(
    run: Run, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "m.bin"
    write_rwkv_cpp(path, rwkv_cpp(write_tiny(tmp_path / "m.pth", "7"), "7"), kind)
    found = described(run, path)
    assert (found["kind"], found["use"], found["version"]) == ("checkpoint", "convert", "7")
    assert (found["container"], found["n_bytes"]) == ("rwkv.cpp's .bin", path.stat().st_size)
    stored = {"FP32": "float32", "FP16": "float16"}.get(kind, kind)
    assert stored in {total["dtype"] for total in found["types"]}
    # The rest is names and shapes.
    data = sum(total["n_bytes"] for total in found["types"])
    assert 0.97 * path.stat().st_size < data < path.stat().st_size
    convert(path, tmp_path / "m.gguf", "Q4_0")
    (size,) = (t["n_bytes"] for t in found["targets"] if t["weight_type"] == "Q4_0")
    assert size == (tmp_path / "m.gguf").stat().st_size


@pytest.mark.parametrize("is_new", [False, True])
def test_torchs_older_format_is_described(run: Run, tmp_path: Path, is_new: bool) -> None:
    torch = pytest.importorskip("torch")
    tensors = write_tiny(tmp_path / "m.pth", "6")
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=is_new)
    found = described(run, tmp_path / "old.pth")
    assert (found["use"], found["version"]) == ("convert", "6")
    assert ("before 1.6" in found["container"]) != is_new


def test_a_folder_without_a_model_is_one_line(run: Run, tmp_path: Path) -> None:
    assert run("info", tmp_path).failed_with(f"{tmp_path}: ")


def test_a_gguf_of_plain_numbers_says_what_it_converts_to(
    run: Run, tmp_path: Path, other_pth: Path
) -> None:
    plain, small = tmp_path / "plain.gguf", tmp_path / "small.gguf"
    convert(other_pth, plain, "F16")
    convert(plain, small, "Q4_0")
    sizes = {t["weight_type"]: t["n_bytes"] for t in described(run, plain)["targets"]}
    assert list(sizes) == list(FILE_TYPES)
    assert sizes["Q4_0"] == small.stat().st_size
    assert described(run, small)["targets"] == []


def test_an_incomplete_checkpoint_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    hp = synthetic_hyperparameters(2, 64, n_vocab=256)
    shapes = SYNTHETIC_VERSIONS["7"].shapes(hp)
    del shapes["blocks.1.att.key.weight"]
    found = described(run, weights(tmp_path / "m.st", shapes))
    assert (found["use"], found["version"]) == ("none", "7")
    assert "blocks.1.att.key.weight is missing" in found["problem"]


def test_a_vocabulary_handed_over_by_mistake_is_known(run: Run, pth: Path) -> None:
    path = pth.with_suffix(".vocab.txt")
    found = described(run, path)
    assert (found["kind"], found["use"]) == ("vocabulary in the World format", "tokenize")
    assert found["details"]["ids"] == "2,048"
    assert f"--tokenizer {path}" in found["advice"]


def test_tokenizers_of_other_makers_are_known(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("sentencepiece")
    from tests.tokenizers.foreign_files import neox_json, sentencepiece_model

    (tmp_path / "tokenizer.json").write_text(neox_json())
    found = described(run, tmp_path / "tokenizer.json")
    assert (found["kind"], found["use"]) == ("Hugging Face tokenizer", "tokenize")
    assert int(found["details"]["ids"]) > 256
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model("bpe", "identity"))
    found = described(run, tmp_path / "tokenizer.model")
    assert (found["kind"], found["use"]) == ("sentencepiece tokenizer", "tokenize")


def test_a_tokenizer_of_a_kind_that_is_not_run_says_so(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "Telepathy"}}))
    found = described(run, path)
    assert (found["kind"], found["use"]) == ("Hugging Face tokenizer", "none")
    assert "Telepathy" in found["problem"]


TEMPLATE = {
    "system_prefix": "", "user_prefix": "Q: ", "assistant_prefix": "A:", "separator": "\n\n",
    "stops": ["\n\nQ:"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "kind", "advice"),
    [
        ({"model_type": "rwkv7"}, "config of a Hugging Face model", "convert FOLDER"),
        ({"architectures": ["A"]}, "config of a Hugging Face model", "convert FOLDER"),
        ({"weight_map": {}}, "index of a checkpoint in parts", "convert FOLDER"),
        ({"tokenizer_class": "T"}, "config of a Hugging Face tokenizer", "tokenizer.json"),
        (TEMPLATE, "chat template", "--template"),
    ],
)
def test_what_lies_beside_a_model_is_known(
    run: Run, tmp_path: Path, content: dict[str, Any], kind: str, advice: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    found = described(run, path)
    assert (found["kind"], found["use"]) == (kind, "none")
    assert advice in found["advice"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "a.json: is n"),
        (b"{" * 100_000, "a.json: is n"),
        (json.dumps({**TEMPLATE, "stops": 3}).encode(), "stops is not a list"),
        (json.dumps({"model": {"type": "BPE"}}).encode(), "its tokenizer.json"),
        (b"1 'a' 1\n3 'b' 1\n", "line 2: id 3, wanted 2"),
        (b"<html>", "is a web page"),
        (b"", "is empty"),
    ],
)
def test_what_is_damaged_or_unknown_is_one_line(
    run: Run, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert run("info", path).failed_with(message)


def test_a_gguf_that_lacks_a_tensor_is_damaged(run: Run, tmp_path: Path, other_pth: Path) -> None:
    convert(other_pth, tmp_path / "m.gguf", "F32")
    content = (tmp_path / "m.gguf").read_bytes()
    name = b"blk.0.time_mix_key.weight"
    (tmp_path / "m.gguf").write_bytes(content.replace(name, name[:-1] + b"u"))
    assert run("info", tmp_path / "m.gguf").failed_with("time_mix_key.weight is missing")


@pytest.mark.parametrize("key", ["tokenizer.ggml.model", "rwkv_edge.tokenizer"])
@pytest.mark.parametrize("value", [7, ["a", "b"], [1, 2, 3]])
def test_a_tokenizer_key_of_the_wrong_type_is_said(
    run: Run, gguf: Path, altered_gguf: Callable[..., Path], key: str, value: object
) -> None:
    found = described(run, altered_gguf(gguf, keys={key: value}))
    assert found["use"] == "none"
    assert f"key {key} is not a text" in found["problem"]


LONG = "x" * 100_000
OTHER_VALUES: list[tuple[str, object]] = [
    ("general.architecture", LONG),
    *((key, value) for key in ("general.name", "tokenizer.chat_template")
      for value in (7, ["a", "b"], [1, 2, 3], LONG)),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OTHER_VALUES)
def test_any_other_key_of_the_wrong_type_does_no_harm(
    run: Run, gguf: Path, altered_gguf: Callable[..., Path], key: str, value: object
) -> None:
    result = run("info", altered_gguf(gguf, keys={key: value}))
    assert result.code == 0
    assert len(result.out) < 5000


def test_names_out_of_a_file_do_not_reach_the_terminal_as_they_are(
    run: Run, tmp_path: Path
) -> None:
    evil = "\x1b[2J\x1b]0;gone\x07"
    path = write_foreign(tmp_path / "m.gguf", evil, general__name=evil)
    found = run("info", path, "--tensors")
    assert found.code == 0
    assert "\x1b" not in found.out
    assert "\x07" not in found.out


def test_a_path_with_spaces_can_be_copied_from_the_advice(run: Run, other_pth: Path) -> None:
    path = other_pth.rename(other_pth.with_name("my model.pth"))
    assert described(run, path)["advice"] == f"convert it: rwkv-edge convert '{path}'"


def test_words_fit_into_80_columns(
    run: Run, pth: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = pth.with_suffix(".vocab.txt")
    for path, name in ((words, "m.vocab.txt"), (pth, "m.pth"), (gguf, "m.gguf")):
        shutil.copy(path, name)
        for line in run("info", name).out.splitlines():
            assert len(line) <= 80 or line.startswith(("next ", "problem ")), line


def test_the_schema_is_documented_field_by_field() -> None:
    text = DOCS.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    classes = (
        schema.FileInfo, schema.TensorInfo, schema.TypeTotal, schema.TokenizerInfo,
        schema.EngineInfo, schema.TargetInfo, schema.ValueInfo, MemoryEstimate,
    )  # fmt: skip
    fields = {field.name for kind in classes for field in dataclasses.fields(kind)}
    assert documented == fields
    for use in schema.Use.__args__:
        assert f'"{use}"' in text
