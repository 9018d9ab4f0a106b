"""Every version of RWKV is called by its name, by the tensors that its authors chose."""

import random
from pathlib import Path

import pytest

from rwkv_edge.converters.arch import CHECKPOINT_READERS, recognise
from rwkv_edge.converters.arch.versions import version_of
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.errors import UnsupportedModelError

V4 = {"att.time_decay": (64,), "att.time_first": (64,), "ffn.key.weight": (256, 64)}
V5 = V4 | {"att.ln_x.weight": (64,), "att.time_decay": (4,)}
V7 = {"att.r_k": (1, 64), "att.k_k": (1, 1, 64), "att.ln_x.weight": (64,)}

BLOCKS = {
    "4": V4,
    "5.0": V5,
    "5.1": V5 | {"att.gate.weight": (64, 64)},
    "5.2": V5 | {"att.gate.weight": (64, 64), "att.time_decay": (4, 16)},
    "6": V5 | {"att.gate.weight": (64, 64), "att.time_maa_x": (1, 1, 64)},
    "7": V7,
    "7a": V7 | {"ffn.s_emb.weight": (256, 1024), "ffn.s0": (1, 1, 256)},
    "7b": V7 | {"ffn.s_emb.weight": (256, 1024), "qkv.qq.weight": (64, 64), "qkv.k1": (64, 32)},
    "8": V7 | {"ffn.enn.weight": (64, 64)},
}


def shapes_of(version: str, n_layer: int = 2) -> dict[str, tuple[int, ...]]:
    block = BLOCKS[version]
    return {"emb.weight": (256, 64)} | {
        f"blocks.{i}.{name}": shape for i in range(n_layer) for name, shape in block.items()
    }


@pytest.mark.parametrize("version", BLOCKS)
def test_a_version_is_told_by_its_tensors(version: str) -> None:
    assert version_of(shapes_of(version)) == version


def test_the_hybrid_of_version_8_is_no_version_7b() -> None:
    shapes = shapes_of("7") | {"blocks.1.qkv.kkup": (64, 64)}
    assert version_of(shapes) == "8"


@pytest.mark.parametrize(
    "version", [version for version in BLOCKS if version not in CHECKPOINT_READERS]
)
def test_a_version_that_cannot_be_run_is_refused_by_its_name(version: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"RWKV-{version} model.*runs RWKV-"):
        recognise(shapes_of(version))


@pytest.mark.parametrize(("version", "why"), [("7b", "grows with the text"), ("8", "ffn.enn, qkv")])
def test_a_version_that_shall_not_be_run_is_refused_with_the_reason(version: str, why: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"RWKV-{version} model \(.*{why}.*\); this"):
        recognise(shapes_of(version))


def test_tensors_that_only_one_layer_has_tell_the_version_too() -> None:
    assert version_of(shapes_of("7") | {"blocks.1.ffn.enn.weight": (64, 64)}) == "8"
    assert version_of(shapes_of("7a") | {"blocks.1.qkv.qq.weight": (64, 64)}) == "7b"
    assert version_of(shapes_of("7") | {"blocks.1.ffn.s_emb.weight": (256, 1024)}) == "7a"


@pytest.mark.parametrize("version", ["4", "5.0", "5.1", "5.2", "6", "7", "7a"])
@pytest.mark.parametrize("n_layer", [1, 3])
def test_the_order_of_the_tensors_makes_no_difference(version: str, n_layer: int) -> None:
    shapes = list(shapes_of(version, n_layer).items())
    for seed in range(20):
        random.Random(seed).shuffle(shapes)
        assert version_of(dict(shapes)) == version


def test_a_version_with_a_reader_gets_it() -> None:
    for version, reader in CHECKPOINT_READERS.items():
        assert recognise(shapes_of(version)) is reader


def test_another_model_is_refused_with_its_tensors_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"model\.embed_tokens\.weight"):
        recognise({"model.embed_tokens.weight": (4, 4), "model.layers.0.attn.w": (4, 4)})


def test_the_trained_checkpoints_are_recognised(trained_rwkv4: Path, trained_rwkv7: Path) -> None:
    for path, version in ((trained_rwkv4, "4"), (trained_rwkv7, "7")):
        with open_checkpoint(path) as checkpoint:
            assert version_of(checkpoint.shapes()) == version
