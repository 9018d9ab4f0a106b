"""`rwkv-edge convert`."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.apps import console
from rwkv_edge.apps.commands import convert as convert_command
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.weight_types import WEIGHT_TYPES
from rwkv_edge.gguf_reader import GgufFile
from tests.converters.adapters.adapter_files import write_pth

from .conftest import Run

TYPES = {"--q4": "Q4_0", "--q8": "Q8_0", "--f16": "F16", "--bf16": "BF16", "--f32": "F32"}


@pytest.fixture
def checkpoint(tmp_path: Path, pth: Path) -> Path:
    """A copy with its vocabulary beside it, in a folder that can be written to."""
    shutil.copy(pth, tmp_path / "m.pth")
    shutil.copy(pth.with_suffix(".vocab.txt"), tmp_path / "m.vocab.txt")
    return tmp_path / "m.pth"


@pytest.mark.parametrize("flag", TYPES)
def test_each_flag_writes_its_type_beside_the_checkpoint(
    run: Run, checkpoint: Path, flag: str
) -> None:
    result = run("convert", checkpoint, flag)
    written = checkpoint.with_name(f"m-{flag.removeprefix('--')}.gguf")
    assert result.code == 0, result.err
    assert result.out.startswith(f"{written}: RWKV-7, ")
    with Model.load(written, "reference") as model:
        assert model.info.file_type == TYPES[flag]


def test_the_default_is_four_bits(run: Run, checkpoint: Path) -> None:
    assert run("convert", checkpoint).code == 0
    assert checkpoint.with_name("m-q4.gguf").is_file()


@pytest.mark.parametrize("name", ["Q8_0", "q8_0"])
def test_a_type_can_be_named(run: Run, checkpoint: Path, name: str) -> None:
    assert run("convert", checkpoint, "--type", name).code == 0
    assert checkpoint.with_name("m-q8.gguf").is_file()


def test_a_mix_can_be_named(run: Run, checkpoint: Path) -> None:
    result = run("convert", checkpoint, "--type", "q4_k_m", "--json")
    assert json.loads(result.out)["weight_type"] == "Q4_K_M"
    with Model.load(checkpoint.with_name("m-q4_k_m.gguf"), "reference") as model:
        assert model.info.file_type in ("Q4_K", "Q5_0")


def test_help_lists_all_types_and_a_wrong_name_gets_a_near_one(run: Run, checkpoint: Path) -> None:
    assert ", ".join(WEIGHT_TYPES) == convert_command.TYPE_NAMES
    assert "Q4_K_M" in run("convert", "--help").out
    assert run("convert", checkpoint, "--type", "Q4_KM").failed_with("(did you mean Q4_K_M?)")


def test_output_and_json_say_what_was_written(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "other name.gguf"
    result = run("convert", checkpoint, "--q8", "-o", out, "--threads", 1, "--json")
    summary = json.loads(result.out)
    assert summary["path"] == str(out)
    assert summary["n_bytes"] == out.stat().st_size
    assert summary["weight_type"] == "Q8_0"
    assert summary["hyperparameters"]["version"] == "7"


def test_a_vocabulary_can_be_named(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    vocabulary = checkpoint.with_suffix(".vocab.txt").rename(tmp_path / "words.txt")
    refused = run("convert", checkpoint)
    assert refused.failed_with("name a tokenizer file")
    for option in ("--tokenizer", "--vocab"):
        result = run("convert", checkpoint, option, vocabulary, "--json")
        assert json.loads(result.out)["vocabulary"] == str(vocabulary)
    result = run("convert", checkpoint, "--tokenizer", vocabulary)
    assert f"\ntokenizer: world, from {vocabulary}\n" in result.out


def test_info_says_which_tokenizer_and_template_a_model_has(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tests.tokenizers.foreign_files import neox_json

    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 64, n_vocab=640))
    (tmp_path / "tokenizer.json").write_text(neox_json())
    converted = run("convert", tmp_path / "m.pth")
    assert f"\ntokenizer: huggingface, from {tmp_path / 'tokenizer.json'}\n" in converted.out
    found = json.loads(run("info", tmp_path / "m-q4.gguf", "--json").out)
    assert (found["tokenizer"]["kind"], found["tokenizer"]["llama_cpp"]) == ("huggingface", "gpt2")
    assert "chat template" not in found["details"]
    write_synthetic(tmp_path / "world.pth", synthetic_hyperparameters(1, 64))
    assert "tokenizer: world, from pyrwkv_tokenizer\n" in run("convert", tmp_path / "world.pth").out
    found = json.loads(run("info", tmp_path / "world-q4.gguf", "--json").out)
    assert (found["tokenizer"]["kind"], found["details"]["chat template"]) == ("world", "world")


def test_a_tokenizer_that_does_not_fit_is_one_line(run: Run, checkpoint: Path) -> None:
    wrong = checkpoint.with_name("tokenizer.json")
    for content, message in (
        (b"{}", "there is no object 'model'"),
        (b"\xff", "is no tokenizer; wanted"),
        (b"0 'a' 1\n" * 2, "line 2: id 0, wanted 1"),
    ):
        wrong.write_bytes(content)
        assert run("convert", checkpoint, "--tokenizer", wrong).failed_with(message)
    assert run("convert", checkpoint, "--tokenizer", "nowhere").failed_with("No such file")
    assert not list(checkpoint.parent.glob("*.gguf"))


@pytest.mark.parametrize("name", ["Q9", "", "IQ2_XXS"])
def test_a_type_that_cannot_be_written_is_one_line(run: Run, checkpoint: Path, name: str) -> None:
    run("convert", checkpoint, "--type", name).failed_with("type")
    assert not list(checkpoint.parent.glob("*.gguf"))


def test_the_checkpoint_is_never_written_over(run: Run, checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    assert run("convert", checkpoint, "-o", checkpoint).failed_with("is the checkpoint itself")
    assert checkpoint.read_bytes() == before


def test_a_damaged_checkpoint_leaves_nothing_behind(run: Run, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100_000])
    before = sorted(checkpoint.parent.iterdir())
    assert run("convert", checkpoint).failed_with(f"{checkpoint}: ")
    assert sorted(checkpoint.parent.iterdir()) == before


def test_ctrl_c_in_the_middle_leaves_nothing_behind(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupting(title: str, unit: str = "") -> Iterator[console.Progress]:
        def at_half(done: int, total: int) -> None:
            if done > total // 2:
                raise KeyboardInterrupt

        yield at_half

    monkeypatch.setattr(console, "progress", interrupting)
    before = sorted(checkpoint.parent.iterdir())
    result = run("convert", checkpoint)
    assert (result.code, result.err) == (130, "rwkv-edge: interrupted\n")
    assert sorted(checkpoint.parent.iterdir()) == before


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(
    run: Run, checkpoint: Path, tiny_disk: Path
) -> None:
    assert run("convert", checkpoint, "-o", tiny_disk / "m.gguf").failed_with("m.gguf: ")
    assert list(tiny_disk.iterdir()) == []


@pytest.fixture
def lora(checkpoint: Path, tmp_path: Path) -> Path:
    """A pair for one matrix."""
    with open_checkpoint(checkpoint) as base:
        n_out, n_in = base.shape("blocks.0.ffn.key.weight")
    random = np.random.default_rng(0)
    pair = {"A": random.normal(size=(4, n_in)), "B": random.normal(size=(n_out, 4))}
    return write_pth(
        tmp_path / "lora.pth",
        {f"blocks.0.ffn.key.lora_{half}": a.astype(np.float32) for half, a in pair.items()},
    )


def test_an_adapter_is_merged_with_its_alpha(run: Run, checkpoint: Path, lora: Path) -> None:
    plain, merged = checkpoint.with_name("plain.gguf"), checkpoint.with_name("merged.gguf")
    assert run("convert", checkpoint, "--f32", "-o", plain).code == 0
    for option in ("--lora", "--adapter"):
        result = run("convert", checkpoint, "--f32", option, lora, "--alpha", 2, "-o", merged)
        assert result.code == 0, result.err
        with GgufFile(plain) as before, GgufFile(merged) as after:
            changed = [
                name
                for name, tensor in after.tensors.items()
                if not np.array_equal(tensor.raw, before.tensors[name].raw)
            ]
        assert changed == ["blk.0.channel_mix_key.weight"]


def test_a_file_with_an_adapter_is_named_after_both(run: Run, checkpoint: Path, lora: Path) -> None:
    """It must not take the place of the model without."""
    assert run("convert", checkpoint, "--lora", lora, "--alpha", 2).code == 0
    assert checkpoint.with_name("m-lora-q4.gguf").is_file()
    assert not checkpoint.with_name("m-q4.gguf").exists()


def test_options_for_adapters_that_do_not_add_up_are_one_line(
    run: Run, checkpoint: Path, lora: Path
) -> None:
    before = sorted(checkpoint.parent.iterdir())
    for options, message in (
        (["--lora", lora], "add --alpha N"),
        (["--alpha", 2], "--alpha is for a LoRA, and there is none"),
        (["--lora", lora, "--alpha", 2, "--alpha", 3], "--alpha is given 2 times"),
        (["--lora", lora, "--pissa-init", lora], "wanted init_lora_A and init_lora_B alone"),
        (["--ignore-orphans"], "--ignore-orphans is for adapters"),
        (["--state", lora], "which is no tuned state"),
        (["--lora", "nowhere.pth", "--alpha", 2], "nowhere.pth: no such file"),
    ):
        assert run("convert", checkpoint, *options).failed_with(message), options
    assert run("convert", lora).failed_with("rwkv-edge convert MODEL --lora FILE --alpha N")
    assert sorted(checkpoint.parent.iterdir()) == before
