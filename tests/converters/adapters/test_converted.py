"""A conversion with adapters is that of the model merged beforehand, in numbers and in name."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from rwkv_edge import Model, StateMismatchError
from rwkv_edge.converters.adapters import Adapter
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.model_file import ModelFile
from tests.converters.adapters.adapter_files import (
    Arrays,
    Save,
    lora_of,
    matrices_of,
    numbers,
    weights_of,
    write_pth,
)
from tests.runtime.arch.oracle import (
    TOLERANCE,
    difference,
    official_logits,
    require_official_package,
)

TOKENS = np.random.default_rng(3).integers(0, 256, 24).astype(np.int32)


def merged_beforehand(base: Path, pairs: Arrays, scale: float, whole: Arrays) -> Path:
    """The base as a float32 checkpoint, the pairs added in float64."""
    with open_checkpoint(base) as checkpoint:
        tensors: Arrays = {name: checkpoint.read(name) for name in checkpoint.names()}
    for name, array in whole.items():
        tensors[name] = array.reshape(tensors[name].shape)
    for name in matrices_of(base):
        product = pairs[f"{name}.lora_B"].astype(np.float64) @ pairs[f"{name}.lora_A"]
        tensors[f"{name}.weight"] = (tensors[f"{name}.weight"] + product * scale).astype(np.float32)
    return write_pth(base.with_name("merged.pth"), tensors)


@pytest.mark.parametrize("version", ["4", "5.2", "6", "7"])
def test_logits_are_the_official_ones_of_the_merged_checkpoint(
    tmp_path: Path, version: str
) -> None:
    require_official_package()
    hp = synthetic_hyperparameters(2, 128, version=version, n_vocab=256)
    base = tmp_path / "base.pth"
    write_synthetic(base, hp, dtype="float32")
    pairs = lora_of(base, 8)
    whole: Arrays = {
        "blocks.1.ln2.weight": 1 + numbers(1, 128),
        "head.weight": numbers(2, 256, 128),
    }
    wanted = official_logits(version, merged_beforehand(base, pairs, 2.0, whole), TOKENS)
    adapter = Adapter(write_pth(tmp_path / "a.pth", {**pairs, **whole}), alpha=16)
    summary = convert(base, tmp_path / "m.gguf", "F32", adapters=[adapter])
    with Model.load(summary.path, threads=2) as model:
        found, _ = model.forward(TOKENS, all_logits=True)
    assert difference(found, wanted) < TOLERANCE
    # The adapter itself is no rounding error.
    plain = official_logits(version, base, TOKENS)
    assert difference(plain, wanted) > 100 * TOLERANCE


def test_quantized_rows_are_those_of_the_merged_weights(base: Path, save: Save) -> None:
    """Bit for bit but where the sums' rounding falls on the edge of a code."""
    pairs = lora_of(base, 8)
    merged = merged_beforehand(base, pairs, 2.0, {})
    adapter = Adapter(save("a.pth", pairs), 16)
    convert(base, base.with_name("a.gguf"), "Q8_0", adapters=[adapter])
    convert(merged, base.with_name("b.gguf"), "Q8_0")
    found = {tensor.name: tensor for tensor in GGUFReader(base.with_name("a.gguf")).tensors}
    for wanted in GGUFReader(base.with_name("b.gguf")).tensors:
        data = found[wanted.name].data.view(np.uint8), wanted.data.view(np.uint8)
        assert (data[0] != data[1]).mean() < 1e-3, wanted.name


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_file(base: Path, save: Save, threads: int) -> None:
    adapter = Adapter(save("a.pth", lora_of(base, 8)), 16)
    for name, n in (("one", 1), ("several", threads)):
        convert(base, base.with_name(f"{name}.gguf"), threads=n, adapters=[adapter])
    one, several = (base.with_name(f"{name}.gguf").read_bytes() for name in ("one", "several"))
    assert one == several


def test_an_rwkv7a_table_is_made_of_the_adapted_embedding(tmp_path: Path) -> None:
    base = tmp_path / "base.pth"
    hp = synthetic_hyperparameters(1, 64, version="7a", n_vocab=256)
    write_synthetic(base, hp, dtype="float32")
    embedding = weights_of(base, "emb.weight").astype(np.float32) + numbers(1, 256, 64)
    adapter = Adapter(write_pth(tmp_path / "a.pth", {"emb.weight": embedding}))
    convert(base, tmp_path / "a.gguf", "F32", adapters=[adapter])
    with open_checkpoint(base) as checkpoint:
        tensors: Arrays = {name: checkpoint.read(name) for name in checkpoint.names()}
    merged = write_pth(tmp_path / "merged.pth", {**tensors, "emb.weight": embedding})
    convert(merged, tmp_path / "b.gguf", "F32")
    name = "blk.0.channel_mix_s_emb.weight"
    with GgufFile(tmp_path / "a.gguf") as a, GgufFile(tmp_path / "b.gguf") as b:
        assert np.array_equal(a.tensors[name].decode(), b.tensors[name].decode())


def test_a_state_goes_on_with_the_same_adapters_in_any_weight_type_and_with_no_others(
    base: Path, save: Save
) -> None:
    """A LoRA changes no vector, which alone is the same in every weight type."""
    adapter = save("a.pth", lora_of(base, 8))
    files = {
        "plain": convert(base, base.with_name("plain.gguf"), "Q8_0"),
        "q8": convert(base, base.with_name("q8.gguf"), "Q8_0", adapters=[Adapter(adapter, 16)]),
        "q4": convert(base, base.with_name("q4.gguf"), "Q4_0", adapters=[Adapter(adapter, 16)]),
        "alpha": convert(base, base.with_name("alpha.gguf"), adapters=[Adapter(adapter, 17)]),
    }
    with Model.load(files["q8"].path, "reference") as model:
        model.forward(TOKENS)[1].save(base.with_name("a.state"))
    for name, resumes in (("q8", True), ("q4", True), ("plain", False), ("alpha", False)):
        with Model.load(files[name].path, "reference") as model:
            if resumes:
                model.load_state(base.with_name("a.state"))
            else:
                with pytest.raises(StateMismatchError, match="of another checkpoint"):
                    model.load_state(base.with_name("a.state"))


def test_a_conversion_without_adapters_names_none(base: Path) -> None:
    summary = convert(base, base.with_name("m.gguf"))
    file = ModelFile(summary.path)
    assert "rwkv_edge.adapters" not in file.gguf.metadata
    file.close()
