"""RWKV-4 checkpoints: what must be there, and what becomes of it."""

from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.arch import ARCHITECTURES
from rwkv_edge.arch.rwkv4 import LERPS
from rwkv_edge.converters.arch.rwkv4 import Rwkv4Reader
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.synthetic.rwkv4 import SyntheticRwkv4
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters

Shapes = dict[str, tuple[int, ...]]
READER = Rwkv4Reader()
HP = synthetic_hyperparameters(2, 96, version="4", n_ffn=320, n_vocab=256)


@pytest.fixture
def shapes() -> Shapes:
    return SyntheticRwkv4().shapes(HP)


@pytest.fixture
def rwkv4_pth(tmp_path: Path) -> Path:
    write_synthetic(tmp_path / "four.pth", HP)
    return tmp_path / "four.pth"


def test_hyperparameters_are_read_off_the_shapes(shapes: Shapes) -> None:
    assert READER.check(shapes) == HP == Hyperparameters("4", 2, 96, 320, 256, 96)
    assert HP.n_head == 1


def test_every_tensor_of_the_gguf_has_a_source() -> None:
    specs = ARCHITECTURES["rwkv4"].tensors(HP)
    assert {spec.name for spec in specs} == set(READER.sources(HP))


def test_every_tensor_is_required_in_its_shape(shapes: Shapes) -> None:
    for name, shape in shapes.items():
        without = {key: found for key, found in shapes.items() if key != name}
        with pytest.raises(FormatError, match=rf"{name.replace('.', '[.]')}.*missing"):
            READER.check(without)
        with pytest.raises(FormatError, match=r"\["):
            READER.check(shapes | {name: (*shape[:-1], shape[-1] + 1)})


def test_an_orphan_is_refused(shapes: Shapes) -> None:
    with pytest.raises(FormatError, match=r"gate\.weight is not part of RWKV-4"):
        READER.check(shapes | {"blocks.0.att.gate.weight": (96, 96)})


def test_sources_give_lerps_and_the_decay_of_logarithms(rwkv4_pth: Path) -> None:
    sources = READER.sources(HP)
    specs = {spec.name: spec.shape for spec in ARCHITECTURES["rwkv4"].tensors(HP)}
    with open_checkpoint(rwkv4_pth) as checkpoint:
        found = {name: sources[name].load(checkpoint, shape) for name, shape in specs.items()}
        for name, shape in specs.items():
            assert found[name].shape == shape
            assert found[name].dtype == np.float32
        for row, letter in zip(found["blk.1.time_mix_lerp_fused.weight"], LERPS, strict=True):
            mu = checkpoint.read(f"blocks.1.att.time_mix_{letter}").ravel()
            np.testing.assert_array_equal(row.ravel(), np.float32(1) - mu)
        mu = checkpoint.read("blocks.0.ffn.time_mix_r").ravel()
        np.testing.assert_array_equal(found["blk.0.channel_mix_lerp_r.weight"], 1 - mu)
        decay = checkpoint.read("blocks.1.att.time_decay")
        np.testing.assert_array_equal(found["blk.1.time_mix_decay.weight"], -np.exp(decay))
        first = checkpoint.read("blocks.1.att.time_first")
        np.testing.assert_array_equal(found["blk.1.time_mix_first.weight"], first)


def test_a_decay_that_is_no_number_is_refused_by_its_tensor(
    rwkv4_pth: Path, tmp_path: Path
) -> None:
    with open_checkpoint(rwkv4_pth) as checkpoint, PthWriter(tmp_path / "bad.pth") as writer:
        for name in checkpoint.names():
            data = checkpoint.read(name)
            if name == "blocks.1.att.time_decay":
                data[5] = 90  # whose exponential is infinite
            writer.add(name, "float32", checkpoint.shape(name), [data.tobytes()])
    with pytest.raises(FormatError, match=r"blk\.1\.time_mix_decay\.weight: holds NaN or inf"):
        convert(tmp_path / "bad.pth", tmp_path / "m.gguf")
