"""An RWKV-5 checkpoint is checked tensor by tensor, and becomes numbers as RWKV-6 would hold."""

from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.arch import ARCHITECTURES
from rwkv_edge.arch.rwkv5 import LERPS
from rwkv_edge.converters.arch.rwkv5 import BY_CHANNEL, Rwkv5Reader
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.synthetic.rwkv5 import SyntheticRwkv5
from rwkv_edge.errors import FormatError
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.hyperparameters import Hyperparameters

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(params=list(LERPS))
def hp(request: pytest.FixtureRequest) -> Hyperparameters:
    """Every width differs, so that nothing fits in another's place."""
    return synthetic_hyperparameters(
        3, 128, version=request.param, n_ffn=320, n_vocab=256, head_size=16
    )


@pytest.fixture
def reader(hp: Hyperparameters) -> Rwkv5Reader:
    return Rwkv5Reader(hp.version)


@pytest.fixture
def shapes(hp: Hyperparameters) -> Shapes:
    return SyntheticRwkv5(hp.version).shapes(hp)


def test_hyperparameters_are_read_off_the_shapes(
    reader: Rwkv5Reader, shapes: Shapes, hp: Hyperparameters
) -> None:
    assert reader.check(shapes) == hp


def test_every_tensor_of_the_gguf_has_a_source(reader: Rwkv5Reader, hp: Hyperparameters) -> None:
    specs = ARCHITECTURES["rwkv5"].tensors(hp)
    assert {spec.name for spec in specs} == set(reader.sources(hp))


def test_every_tensor_is_required(reader: Rwkv5Reader, shapes: Shapes) -> None:
    for name in shapes:
        without = {key: shape for key, shape in shapes.items() if key != name}
        known_as = name.replace("time_first", "time_faaaa").replace(".", "[.]")
        with pytest.raises(FormatError, match=rf"{known_as}.*missing"):
            reader.check(without)


def test_every_tensor_must_have_its_shape(reader: Rwkv5Reader, shapes: Shapes) -> None:
    for name, shape in shapes.items():
        changed = shapes | {name: (*shape[:-1], shape[-1] + 1)}
        with pytest.raises(FormatError, match=r"\["):
            reader.check(changed)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (256,)])
def test_heads_that_do_not_divide_the_width_are_refused(
    reader: Rwkv5Reader, shapes: Shapes, shape: tuple[int, ...]
) -> None:
    with pytest.raises(FormatError, match=r"time_decay is \[.*heads do not divide the embedding"):
        reader.check(shapes | {"blocks.0.att.time_decay": shape})


def test_numbers_become_those_of_rwkv_6(
    tmp_path: Path, reader: Rwkv5Reader, hp: Hyperparameters
) -> None:
    write_synthetic(tmp_path / "m.pth", hp)
    sources = reader.sources(hp)
    specs = {spec.name: spec.shape for spec in ARCHITECTURES["rwkv5"].tensors(hp)}
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        found = {name: sources[name].load(checkpoint, shape) for name, shape in specs.items()}
        for name, shape in specs.items():
            assert found[name].shape == shape
        fused = found["blk.1.time_mix_lerp_fused.weight"].reshape(-1, hp.n_embd)
        for row, letter in zip(fused, LERPS[hp.version], strict=True):
            mu = checkpoint.read(f"blocks.1.att.time_mix_{letter}").ravel()
            np.testing.assert_allclose(row, 1 - mu, rtol=0, atol=1e-7)
        decay = checkpoint.read("blocks.2.att.time_decay").reshape(hp.n_head, -1)
        wanted = np.broadcast_to(decay, (hp.n_head, hp.head_size)).ravel()
        np.testing.assert_array_equal(found["blk.2.time_mix_decay.weight"], wanted)
        first = found["blk.0.time_mix_first.weight"]
        if hp.version in BY_CHANNEL:
            wanted = checkpoint.read("blocks.0.att.time_faaaa")
        else:
            logarithm = checkpoint.read("blocks.0.att.time_first").reshape(-1, 1)
            wanted = np.broadcast_to(np.exp(logarithm), first.shape)
        np.testing.assert_array_equal(first, wanted)


def test_either_name_of_what_weighs_the_present_token_is_read(
    tmp_path: Path, hp: Hyperparameters
) -> None:
    """Every stage was trained under both; `time_first` is the logarithm of `time_faaaa`."""
    write_synthetic(tmp_path / "a.pth", hp, dtype="float32")
    old = "time_faaaa" if hp.version in BY_CHANNEL else "time_first"
    new, convert_number = (
        ("time_first", lambda x: np.log(np.abs(x)))
        if old == "time_faaaa"
        else ("time_faaaa", np.exp)
    )
    with (
        open_checkpoint(tmp_path / "a.pth") as checkpoint,
        PthWriter(tmp_path / "b.pth") as writer,
    ):
        for name in checkpoint.names():
            numbers = checkpoint.read(name)
            if old in name:
                numbers = convert_number(numbers).astype(np.float32)
            writer.add(name.replace(old, new), "float32", numbers.shape, iter([numbers.tobytes()]))
    first = []
    for name in ("a", "b"):
        convert(tmp_path / f"{name}.pth", tmp_path / f"{name}.gguf", "F32")
        with GgufFile(tmp_path / f"{name}.gguf") as file:
            first.append(np.abs(file.tensors["blk.1.time_mix_first.weight"].decode()))
    np.testing.assert_allclose(first[0], first[1], rtol=1e-5)
