"""An RWKV-6 checkpoint is checked tensor by tensor before any of it is converted."""

from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.arch import ARCHITECTURES
from rwkv_edge.arch.rwkv6 import LERPS, Rwkv6Hyperparameters
from rwkv_edge.converters.arch.rwkv6 import Rwkv6Reader
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.synthetic.rwkv6 import SyntheticRwkv6
from rwkv_edge.errors import FormatError

Shapes = dict[str, tuple[int, ...]]
READER = Rwkv6Reader()


@pytest.fixture
def hp() -> Rwkv6Hyperparameters:
    """Every rank and width differs, so that nothing fits in another's place."""
    found = synthetic_hyperparameters(
        3, 128, version="6", n_ffn=320, n_vocab=256, head_size=32, ranks=(24, 40)
    )
    assert isinstance(found, Rwkv6Hyperparameters)
    return found


@pytest.fixture
def shapes(hp: Rwkv6Hyperparameters) -> Shapes:
    return SyntheticRwkv6().shapes(hp)


def test_hyperparameters_are_read_off_the_shapes(shapes: Shapes, hp: Rwkv6Hyperparameters) -> None:
    assert READER.check(shapes) == hp


def test_every_tensor_of_the_gguf_has_a_source(hp: Rwkv6Hyperparameters) -> None:
    specs = ARCHITECTURES["rwkv6"].tensors(hp)
    assert {spec.name for spec in specs} == set(READER.sources(hp))


def test_every_tensor_is_required(shapes: Shapes) -> None:
    for name in shapes:
        without = {key: shape for key, shape in shapes.items() if key != name}
        with pytest.raises(FormatError, match=rf"{name.replace('.', '[.]')}.*missing"):
            READER.check(without)


def test_every_tensor_must_have_its_shape(shapes: Shapes) -> None:
    for name, shape in shapes.items():
        changed = shapes | {name: (*shape[:-1], shape[-1] + 1)}
        with pytest.raises(FormatError, match=r"\["):
            READER.check(changed)


def test_an_orphan_is_refused(shapes: Shapes) -> None:
    with pytest.raises(FormatError, match="time_state is not part of RWKV-6"):
        READER.check(shapes | {"blocks.0.att.time_state": (4, 32, 32)})


def test_heads_that_do_not_divide_the_width_are_refused(shapes: Shapes) -> None:
    with pytest.raises(FormatError, match="3 heads do not divide the embedding of 128"):
        READER.check(shapes | {"blocks.0.att.time_faaaa": (3, 32)})


def test_sources_give_what_llama_cpp_wants(tmp_path: Path, hp: Rwkv6Hyperparameters) -> None:
    # Not the table itself, which random checkpoints are made by as well.
    assert LERPS == ("w", "k", "v", "r", "g")
    write_synthetic(tmp_path / "m.pth", hp)
    sources = READER.sources(hp)
    specs = {spec.name: spec.shape for spec in ARCHITECTURES["rwkv6"].tensors(hp)}
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        found = {name: sources[name].load(checkpoint, shape) for name, shape in specs.items()}
        for name, shape in specs.items():
            assert found[name].shape == shape
        for name, key in (
            ("time_mix_w1", "time_maa_w1"),
            ("time_mix_decay_w1", "time_decay_w1"),
            ("time_mix_decay_w2", "time_decay_w2"),
        ):
            wanted = checkpoint.read(f"blocks.1.att.{key}").T
            np.testing.assert_array_equal(found[f"blk.1.{name}.weight"], wanted)
        w2 = checkpoint.read("blocks.2.att.time_maa_w2")
        fused = found["blk.2.time_mix_lerp_fused.weight"]
        assert fused.shape == (5, 1, 1, hp.n_embd)
        for i, letter in enumerate(LERPS):
            np.testing.assert_array_equal(found["blk.2.time_mix_w2.weight"][i], w2[i].T)
            mu = checkpoint.read(f"blocks.2.att.time_maa_{letter}")
            np.testing.assert_array_equal(fused[i].ravel(), mu.ravel())
        np.testing.assert_array_equal(
            found["blk.0.time_mix_first.weight"], checkpoint.read("blocks.0.att.time_faaaa")
        )


def test_widths_and_ranks_are_those_that_its_authors_choose() -> None:
    for n_embd, wanted in ((768, (2688, 32, 64)), (2560, (8960, 32, 64)), (4096, (14336, 64, 128))):
        hp = synthetic_hyperparameters(1, n_embd, version="6")
        assert isinstance(hp, Rwkv6Hyperparameters)
        assert (hp.n_ffn, hp.mix_rank, hp.decay_rank) == wanted
