"""`rwkv-edge convert --plan` says what `convert` then writes, and writes nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.converters import convert as conversion
from rwkv_edge.converters.weight_types import FILE_TYPES
from tests.converters.adapters.adapter_files import lora_of, numbers, write_pth

from .conftest import Run

Listing = dict[str, tuple[int, int, bytes]]


@pytest.fixture
def checkpoint(tmp_path: Path, pth: Path) -> Path:
    """A copy with its vocabulary beside it, in a folder that can be written to."""
    shutil.copy(pth, tmp_path / "m.pth")
    shutil.copy(pth.with_suffix(".vocab.txt"), tmp_path / "m.vocab.txt")
    return tmp_path / "m.pth"


def listing(folder: Path) -> Listing:
    """Names, times and contents of all files, and the time of the folder itself."""
    found = {".": (folder.stat().st_mtime_ns, 0, b"")}
    for path in folder.iterdir():
        stat = path.stat()
        found[path.name] = (stat.st_mtime_ns, stat.st_ino, path.read_bytes())
    return found


def planned(run: Run, *arguments: object) -> dict[str, Any]:
    """The JSON of a plan, after the words for a person: both must work."""
    shown = run("convert", *arguments, "--plan")
    assert (shown.code, shown.err) == (0, "")
    found: dict[str, Any] = json.loads(run("convert", *arguments, "--plan", "--json").out)
    assert f"{found['n_bytes']:,} bytes" in shown.out
    return found


@pytest.mark.parametrize("weight_type", FILE_TYPES)
def test_it_says_what_is_then_written(run: Run, checkpoint: Path, weight_type: str) -> None:
    options = (checkpoint, "--type", weight_type)
    plan = planned(run, *options)
    summary = json.loads(run("convert", *options, "--json").out)
    assert plan["path"] == summary["path"]
    assert plan["n_bytes"] == summary["n_bytes"] == Path(summary["path"]).stat().st_size
    for key in ("hyperparameters", "weight_type", "tokenizer", "vocabulary", "notes"):
        assert plan[key] == summary[key], key
    assert len(plan["tensors"]) == summary["n_tensors"]
    of_file = json.loads(run("info", summary["path"], "--json").out)
    assert plan["memory"] == of_file["memory"]
    wanted = [(t["name"], t["dtype"], t["shape"], t["n_bytes"]) for t in of_file["tensors"]]
    assert [(t["name"], t["dtype"], t["shape"], t["n_bytes"]) for t in plan["tensors"]] == wanted
    assert sum(total["n_bytes"] for total in plan["types"]) == sum(
        tensor["n_bytes"] for tensor in plan["tensors"]
    )


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_is_written(run: Run, checkpoint: Path, exists: bool) -> None:
    destination = checkpoint.with_name("m-q4.gguf")
    if exists:
        destination.write_bytes(b"of earlier")
    # What a conversion that was killed left, which only another conversion removes.
    (checkpoint.parent / ".m-q4.gguf.4194305-0a.partial").write_bytes(b"half")
    before = listing(checkpoint.parent)
    plan = planned(run, checkpoint)
    assert run("convert", checkpoint, "--plan", "--tensors").code == 0
    assert listing(checkpoint.parent) == before
    assert plan["replaces"] == exists


def test_tensors_are_listed_with_their_sources(run: Run, checkpoint: Path) -> None:
    shown = run("convert", checkpoint, "--plan", "--tensors").out
    rows = [line.split() for line in shown.splitlines()]
    assert ["output.weight", "Q4_0", "2048", "x", "192", "221,184", "head.weight"] in rows
    assert any(row[-1:] == ["Transposed(blocks.3.att.g2)"] for row in rows)
    brief = run("convert", checkpoint, "--plan").out
    assert "head.weight" not in brief
    assert "Q4_0" in brief


def test_other_options_are_followed(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    words = checkpoint.with_suffix(".vocab.txt").rename(tmp_path / "words.txt")
    assert run("convert", checkpoint, "--plan").failed_with("name a tokenizer file")
    out = tmp_path / "other name.gguf"
    plan = planned(run, checkpoint, "--q8", "-o", out, "--tokenizer", words, "--threads", 1)
    assert (plan["path"], plan["weight_type"], plan["vocabulary"]) == (str(out), "Q8_0", str(words))


def test_adapters_and_tuned_states_are_counted_and_said(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    lora = write_pth(tmp_path / "lora.pth", lora_of(checkpoint, 4, part="att.key"))
    states = {f"blocks.{i}.att.time_state": numbers(i, 3, 64, 64) for i in range(4)}
    state = write_pth(tmp_path / "state.pth", states)
    options = (checkpoint, "--lora", lora, "--alpha", 8, "--state", state)
    plan = planned(run, *options)
    assert plan["n_bytes"] > planned(run, checkpoint)["n_bytes"] + 4 * 3 * 64 * 64 * 4
    sources = {tensor["name"]: tensor["source"] for tensor in plan["tensors"]}
    assert sources["blk.1.time_mix_key.weight"] == "blocks.1.att.key.weight + adapter"
    assert sources["blk.1.time_mix_value.weight"] == "blocks.1.att.value.weight"
    summary = json.loads(run("convert", *options, "--json").out)
    assert plan["n_bytes"] == Path(summary["path"]).stat().st_size
    details = json.loads(run("info", summary["path"], "--json").out)["details"]
    assert details["adapters"] == "merged into the weights"
    assert details["tuned state"].startswith("inside")


def test_a_disk_that_is_too_small_is_said(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(checkpoint.parent)._replace(free=conversion.SPARE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    plan = planned(run, checkpoint)
    assert not plan["fits"]
    assert plan["free_bytes"] == conversion.SPARE_BYTES
    assert "which is not enough" in run("convert", checkpoint, "--plan").out
    assert run("convert", checkpoint).failed_with("needs")


def test_notes_are_said_before_the_work(run: Run, checkpoint: Path) -> None:
    vocabulary = checkpoint.with_suffix(".vocab.txt")
    lines = vocabulary.read_text(encoding="utf-8").splitlines()[:-100]
    vocabulary.write_text("\n".join(lines), encoding="utf-8")
    assert "note: the vocabulary has 1948 ids of 2048" in run("convert", checkpoint, "--plan").out


def test_tensors_without_a_plan_is_wrong_usage(run: Run, checkpoint: Path) -> None:
    result = run("convert", checkpoint, "--tensors")
    assert result.code == 2
    assert "--tensors goes with --plan" in result.err


def test_what_cannot_be_converted_is_one_line(run: Run, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100_000])
    before = listing(checkpoint.parent)
    assert run("convert", checkpoint, "--plan").failed_with(f"{checkpoint}: ")
    assert run("convert", checkpoint, "--plan", "-o", checkpoint).code == 1
    assert listing(checkpoint.parent) == before
