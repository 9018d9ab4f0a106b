"""A plan tells the file that a conversion then writes: its size to the byte, its tensors, notes."""

from pathlib import Path

import pytest
from gguf import GGUFReader

from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.arch import CHECKPOINT_READERS
from rwkv_edge.converters.convert import convert, planned
from rwkv_edge.converters.plan import provenance
from rwkv_edge.converters.synthetic import (
    SYNTHETIC_VERSIONS,
    synthetic_hyperparameters,
    write_synthetic,
)
from rwkv_edge.converters.weight_types import FILE_TYPES
from rwkv_edge.errors import FormatError, InputError

N_VOCAB = 640


def written(folder: Path, weight_type: str, **options: str | Path) -> Path:
    """What a conversion makes of `m.pth`, checked against its plan on the way."""
    source, destination = folder / "m.pth", folder / "m.gguf"
    destination.unlink(missing_ok=True)
    with planned(source, destination, weight_type, **options) as plan:
        said = plan.file_bytes
        tensors = [(t.spec.name, t.quant.ggml_type, t.n_bytes) for t in plan.tensors]
    assert not destination.exists()
    summary = convert(source, destination, weight_type, **options)
    assert said == destination.stat().st_size == summary.n_bytes
    assert plan.notes == summary.notes
    found = [(t.name, int(t.tensor_type), t.n_bytes) for t in GGUFReader(destination).tensors]
    assert [(name, kind, int(n_bytes)) for name, kind, n_bytes in found] == tensors
    return destination


@pytest.mark.parametrize("weight_type", FILE_TYPES)
@pytest.mark.parametrize("version", SYNTHETIC_VERSIONS)
def test_the_size_is_that_of_the_file_for_every_version_and_type(
    tmp_path: Path, version: str, weight_type: str
) -> None:
    write_synthetic(
        tmp_path / "m.pth", synthetic_hyperparameters(2, 64, version=version, n_vocab=256)
    )
    written(tmp_path, weight_type)


@pytest.mark.parametrize("width", [32, 40, 104])
def test_the_size_is_that_of_the_file_where_tensors_need_padding(
    tmp_path: Path, width: int
) -> None:
    hp = synthetic_hyperparameters(1, width, n_ffn=3 * width, n_vocab=256, head_size=8)
    write_synthetic(tmp_path / "m.pth", hp)
    written(tmp_path, "Q4_0")


def test_the_world_vocabulary_is_counted(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 32, head_size=32))
    assert written(tmp_path, "Q8_0").stat().st_size > 1_000_000


def test_a_vocabulary_of_few_words_and_padding_is_counted(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 64, n_vocab=N_VOCAB))
    lines = ["1 'a' 1", "2 '\\n\\n' 2", "3 '日本' 6", "4 b'\\xff' 1"]
    (tmp_path / "words.txt").write_text("\n".join(lines), encoding="utf-8")
    written(tmp_path, "F16", tokenizer=tmp_path / "words.txt")


def test_tokenizers_of_other_makers_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("sentencepiece")
    from tests.tokenizers.foreign_files import neox_json, sentencepiece_model

    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 64, n_vocab=N_VOCAB))
    (tmp_path / "a.json").write_text(neox_json())
    (tmp_path / "a.model").write_bytes(sentencepiece_model("bpe", "identity"))
    for name in ("a.json", "a.model"):
        written(tmp_path, "Q4_0", tokenizer=tmp_path / name)


@pytest.mark.parametrize("version", SYNTHETIC_VERSIONS)
def test_every_tensor_says_where_it_comes_from(version: str) -> None:
    hp = synthetic_hyperparameters(2, 64, version=version, n_vocab=256)
    reader = CHECKPOINT_READERS[version]
    sources = reader.sources(hp)
    assert set(sources) == {spec.name for spec in architecture_of(version).tensors(hp)}
    said = {name: provenance(source) for name, source in sources.items()}
    assert said["output.weight"] == "head.weight"
    assert all(said.values())
    # Tensors that are computed say what of; each of the checkpoint's is used by one at least.
    everything = " ".join(said.values()).replace("(", " ").replace(")", " ").replace(",", " ")
    computed = {"s_emb.weight", "s_emb_x.weight"}
    for key in reader.required(hp):
        assert key in everything.split() or key.split("ffn.")[-1] in computed, key


def test_a_source_made_of_others_is_spelled_out() -> None:
    hp = synthetic_hyperparameters(2, 64, version="7a", n_vocab=256)
    sources = CHECKPOINT_READERS["7a"].sources(hp)
    assert provenance(sources["blk.0.time_mix_v1.weight"]) == (
        "Padding(Transposed(blocks.0.att.a1))"
    )
    assert provenance(sources["blk.1.channel_mix_s_emb.weight"]) == "MergedTable(1)"
    assert provenance(sources["blk.1.time_mix_lerp_fused.weight"]).startswith(
        "Stacked(blocks.1.att.x_r, blocks.1.att.x_w, "
    )


def test_a_plan_is_refused_for_what_a_conversion_is(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 64, n_vocab=256))
    for destination, weight_type, error, message in (
        (tmp_path / "m.pth", "Q4_0", InputError, "is the checkpoint itself"),
        (tmp_path, "Q4_0", InputError, "is a folder"),
        (tmp_path / "nowhere" / "m.gguf", "Q4_0", InputError, "its folder does not exist"),
        (tmp_path / "m.gguf", "Q9", InputError, "weight type Q9"),
    ):
        with (
            pytest.raises(error, match=message),
            planned(tmp_path / "m.pth", destination, weight_type),
        ):
            pass
    with (
        pytest.raises(FormatError, match="no such file"),
        planned(tmp_path / "none.pth", tmp_path / "m.gguf", "Q4_0"),
    ):
        pass
