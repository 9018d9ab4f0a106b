"""An RWKV-7 checkpoint is checked tensor by tensor before any of it is converted."""

import numpy as np
import pytest

from rwkv_edge.arch import ARCHITECTURES
from rwkv_edge.arch.rwkv7 import LERPS, Rwkv7Hyperparameters
from rwkv_edge.converters.arch.base import Padding, Source
from rwkv_edge.converters.arch.rwkv7 import Rwkv7Reader
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.synthetic.rwkv7 import SyntheticRwkv7
from rwkv_edge.errors import FormatError

Shapes = dict[str, tuple[int, ...]]
READER = Rwkv7Reader()


@pytest.fixture
def shapes(tiny: Rwkv7Hyperparameters) -> Shapes:
    return SyntheticRwkv7().shapes(tiny)


def test_hyperparameters_are_read_off_the_shapes(
    shapes: Shapes, tiny: Rwkv7Hyperparameters
) -> None:
    assert READER.check(shapes) == tiny


@pytest.mark.parametrize("layer_0_values", [False, True])
def test_layer_0_may_hold_a_value_mix(tiny: Rwkv7Hyperparameters, layer_0_values: bool) -> None:
    assert READER.check(SyntheticRwkv7().shapes(tiny, layer_0_values)) == tiny


def test_every_tensor_of_the_gguf_has_a_source(tiny: Rwkv7Hyperparameters) -> None:
    specs = ARCHITECTURES["rwkv7"].tensors(tiny)
    assert {spec.name for spec in specs} == set(READER.sources(tiny))


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


@pytest.mark.parametrize("shape", [(128, 128, 1, 2), (), (0, 128), (1 << 40, 128)])
def test_an_embedding_of_an_impossible_shape_is_refused(
    shapes: Shapes, shape: tuple[int, ...]
) -> None:
    with pytest.raises(FormatError, match=r"emb\.weight"):
        READER.check(shapes | {"emb.weight": shape})


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("blocks.0.att.receptance.lora_A", "lora_A is not part of RWKV-7; an adapter"),
        ("blocks.1.att.time_decay", "time_decay is not part"),
        ("optimizer", "optimizer is not part"),
        ("blocks.7.ln1.weight", r"blocks\.3 is missing"),
        ("blocks.3.ln1.weight", r"blocks\.3\.ln2\.weight.* and \d+ more are missing"),
    ],
)
def test_an_orphan_is_refused(shapes: Shapes, extra: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        READER.check(shapes | {extra: (128,)})


@pytest.mark.parametrize(
    ("r_k", "head_size"), [((2, 64), 64), ((4, 32), 32), ((128,), 64), ((1, 1, 128), 64)]
)
def test_the_head_size_is_that_of_r_k(shapes: Shapes, r_k: tuple[int, ...], head_size: int) -> None:
    flat = {key: r_k for key in shapes if key.endswith("r_k")}
    # Where something squeezed it, the numbers are all there, in the same order.
    assert READER.check(shapes | flat).head_size == head_size


def test_a_head_size_that_does_not_divide_the_width_is_refused(shapes: Shapes) -> None:
    with pytest.raises(FormatError, match="do not divide"):
        READER.check(shapes | {"blocks.0.att.r_k": (2, 48)})


def test_one_layer_is_enough(tiny: Rwkv7Hyperparameters) -> None:
    one = Rwkv7Hyperparameters(**{**vars(tiny), "n_layer": 1, "value_rank": tiny.iclr_rank})
    assert READER.check(SyntheticRwkv7().shapes(one)) == one


def test_sources_give_what_llama_cpp_wants(tiny_pth, tiny: Rwkv7Hyperparameters) -> None:  # type: ignore[no-untyped-def]
    sources = READER.sources(tiny)
    specs = {spec.name: spec.shape for spec in ARCHITECTURES["rwkv7"].tensors(tiny)}
    with open_checkpoint(tiny_pth) as checkpoint:

        def load(name: str) -> np.ndarray:  # type: ignore[type-arg]
            return sources[name].load(checkpoint, specs[name])

        np.testing.assert_array_equal(
            load("blk.1.time_mix_w1.weight"), checkpoint.read("blocks.1.att.w1").T
        )
        np.testing.assert_array_equal(
            load("blk.1.time_mix_g2.weight"), checkpoint.read("blocks.1.att.g2").T
        )
        fused = load("blk.2.time_mix_lerp_fused.weight")
        assert fused.shape == (6, 1, 1, tiny.n_embd)
        for row, letter in zip(fused, LERPS, strict=True):
            np.testing.assert_array_equal(
                row.ravel(), checkpoint.read(f"blocks.2.att.x_{letter}").ravel()
            )
        np.testing.assert_array_equal(
            load("blk.0.time_mix_r_k.weight"), checkpoint.read("blocks.0.att.r_k").ravel()
        )
        np.testing.assert_array_equal(
            load("blk.0.time_mix_v0.weight"), checkpoint.read("blocks.0.att.a0").ravel()
        )
        for name, shape in specs.items():
            assert load(name).shape == shape


def test_padding_takes_the_shape_that_it_is_asked_for(tiny_pth, tiny: Rwkv7Hyperparameters) -> None:  # type: ignore[no-untyped-def]
    source: Source = READER.sources(tiny)["blk.0.time_mix_v1.weight"]
    assert isinstance(source, Padding)
    with open_checkpoint(tiny_pth) as checkpoint:
        a1 = checkpoint.read("blocks.0.att.a1").T
        rank, C = a1.shape
        np.testing.assert_array_equal(source.load(checkpoint, (rank, C)), a1)
        np.testing.assert_array_equal(source.load(checkpoint, (rank - 9, C)), a1[:-9])
        longer = source.load(checkpoint, (rank + 2, C))
        np.testing.assert_array_equal(longer[:rank], a1)
        assert not longer[rank:].any()
