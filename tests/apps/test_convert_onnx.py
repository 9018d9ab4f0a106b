"""`rwkv-edge convert --onnx`."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
import onnx

from rwkv_edge.apps.commands import convert as convert_command
from rwkv_edge.onnx_model_file import HELD_TYPES
from tests.converters.adapters.adapter_files import lora_of, write_pth
from tests.converters.onnx.exported import read_exported

from .conftest import Run

CODES = {"--q4": 16, "--q8": 32}


@pytest.fixture
def checkpoint(tmp_path: Path, pth: Path) -> Path:
    """A copy with its vocabulary beside it, in a folder that can be written to."""
    shutil.copy(pth, tmp_path / "m.pth")
    shutil.copy(pth.with_suffix(".vocab.txt"), tmp_path / "m.vocab.txt")
    return tmp_path / "m.pth"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("flag", ["--q4", "--q8", "--f16", "--bf16", "--f32"])
def test_each_flag_writes_its_type_beside_the_checkpoint(
    run: Run, checkpoint: Path, flag: str
) -> None:
    result = run("convert", checkpoint, "--onnx", flag)
    written = checkpoint.with_name(f"m-{flag.removeprefix('--')}.onnx")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{written}: RWKV-7, ")
    onnx.checker.check_model(written, full_check=True)
    found = read_exported(written)
    assert found.keys["general.architecture"] == "rwkv7"
    if flag in CODES:
        assert found.arrays["output.weight.codes"].shape[-1] == CODES[flag]
    else:
        assert found.arrays["output.weight"].dtype.itemsize == (4 if flag == "--f32" else 2)


def test_the_default_is_four_bits(run: Run, checkpoint: Path) -> None:
    assert run("convert", checkpoint, "--onnx").code == 0
    assert checkpoint.with_name("m-q4.onnx").is_file()
    assert not list(checkpoint.parent.glob("*.gguf"))


def test_a_name_that_ends_in_onnx_is_taken_at_its_word(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    for name, more in (("a.onnx", []), ("B.ONNX", []), ("c.bin", ["--onnx"])):
        result = run("convert", checkpoint, "-o", tmp_path / name, *more, "--json")
        assert json.loads(result.out)["path"] == str(tmp_path / name)
        assert read_exported(tmp_path / name).keys["general.name"] == "m"


def test_a_gguf_keeps_its_types_where_none_is_named(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    gguf = tmp_path / "some.q8.gguf"
    assert run("convert", checkpoint, "--q8", "-o", gguf).code == 0
    summary = json.loads(run("convert", gguf, "--onnx", "--json").out)
    assert (summary["path"], summary["weight_type"]) == (str(tmp_path / "some.q8.onnx"), "Q8_0")
    assert run("convert", checkpoint, "--onnx", "--q8").code == 0
    one, other = (tmp_path / name for name in ("some.q8.onnx", "m-q8.onnx"))
    assert read_exported(one).arrays.keys() == read_exported(other).arrays.keys()
    refused = run("convert", gguf, "--onnx", "--q4")
    assert refused.failed_with("into an ONNX without a weight type it goes as it is")
    plain = tmp_path / "plain.gguf"
    assert run("convert", checkpoint, "--f32", "-o", plain).code == 0
    assert run("convert", plain, "--onnx", "--q4").code == 0
    assert read_exported(tmp_path / "plain-q4.onnx").arrays["output.weight.codes"].shape[-1] == 16


def test_external_data_goes_beside_the_model(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    options = (checkpoint, "--onnx", "--external-data")
    result = run("convert", *options)
    (data,) = tmp_path.glob("m-q4.*.data")
    assert f"\n{data}: its weights, " in result.out
    summary = json.loads(run("convert", *options, "--json").out)
    assert summary["data_path"] == str(data)
    assert summary["data_bytes"] == data.stat().st_size
    assert summary["n_bytes"] == (tmp_path / "m-q4.onnx").stat().st_size
    onnx.checker.check_model(tmp_path / "m-q4.onnx")


def planned(run: Run, *arguments: object) -> dict[str, Any]:
    """The JSON of a plan, after the words for a person: both must work."""
    shown = run("convert", *arguments, "--plan", "--tensors")
    assert (shown.code, shown.err) == (0, "")
    found: dict[str, Any] = json.loads(run("convert", *arguments, "--plan", "--json").out)
    for key in ("n_bytes", "data_bytes"):
        assert f"{found[key]:,} bytes" in shown.out or not found[key], key
    return found


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("weight_type", HELD_TYPES)
def test_a_plan_says_what_is_then_written(
    run: Run, checkpoint: Path, tmp_path: Path, weight_type: str, external: bool
) -> None:
    lora = write_pth(tmp_path / "lora.pth", lora_of(checkpoint, 4, part="att.key"))
    options = [checkpoint, "--onnx", "--type", weight_type, "--lora", lora, "--alpha", 8]
    options += ["--external-data"] if external else []
    before = names(tmp_path)
    plan = planned(run, *options)
    assert names(tmp_path) == before
    summary = json.loads(run("convert", *options, "--json").out)
    for key in ("path", "n_bytes", "data_bytes", "hyperparameters", "weight_type", "notes"):
        assert plan[key] == summary[key], key
    assert bool(plan["data_bytes"]) == external
    assert Path(plan["path"]).stat().st_size == plan["n_bytes"]
    # The numba engine runs no ONNX.
    assert plan["memory"] is None
    arrays = read_exported(Path(plan["path"])).arrays
    for tensor in plan["tensors"]:
        name = tensor["name"]
        parts = [arrays[part] for part in (name, f"{name}.codes", f"{name}.scales")
                 if part in arrays]  # fmt: skip
        assert tensor["n_bytes"] == sum(part.nbytes for part in parts), name
    assert len(plan["tensors"]) == summary["n_tensors"]


def test_types_that_onnx_does_not_hold_are_one_line(run: Run, checkpoint: Path) -> None:
    before = names(checkpoint.parent)
    for name in ("Q4_K_M", "q6_k", "IQ4_NL", "nonsense"):
        refused = run("convert", checkpoint, "--onnx", "--type", name)
        assert refused.failed_with("an ONNX model holds F32, F16, BF16, Q8_0, Q4_0;")
    assert names(checkpoint.parent) == before
    assert run("convert", checkpoint, "--type", "Q5_0").code == 0
    refused = run("convert", checkpoint.with_name("m-q5.gguf"), "--onnx")
    assert refused.failed_with("token_embd.weight is Q5_0; an ONNX model holds F32, F16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--external-data"], "--external-data goes with --onnx"),
        (["--onnx", "-o", "a.gguf"], "--onnx writes no GGUF: name a.gguf otherwise"),
    ],
)
def test_options_that_do_not_add_up_are_wrong_usage(
    run: Run, checkpoint: Path, options: list[str], message: str
) -> None:
    result = run("convert", checkpoint, *options)
    assert result.code == 2
    assert message in result.err


def test_what_cannot_be_read_is_one_line(run: Run, tmp_path: Path) -> None:
    for name in ("nowhere.pth", "nowhere.gguf"):
        assert run("convert", tmp_path / name, "--onnx").failed_with(f"{name}: no such file")


def test_without_the_package_one_line_says_how_to_get_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for options in ([], ["--plan"]):
        refused = run("convert", tmp_path / "nowhere.pth", "--onnx", *options)
        assert refused.failed_with('pip install "rwkv-edge[onnx]"')


def test_help_lists_the_types(run: Run) -> None:
    listed = ", ".join(HELD_TYPES[:-1]) + " or " + HELD_TYPES[-1]
    assert listed == convert_command.ONNX_TYPE_NAMES
    assert "--external-data" in run("convert", "--help").out


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(
    run: Run, checkpoint: Path, tiny_disk: Path
) -> None:
    for options in ([], ["--external-data"]):
        result = run("convert", checkpoint, "-o", tiny_disk / "m.onnx", *options)
        assert result.failed_with("m.onnx: ")
        assert names(tiny_disk) == []
