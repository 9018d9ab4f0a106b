"""An RWKV-6 GGUF may lie in every key and shape; nothing is allocated by what it says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.arch.rwkv6 import Rwkv6Hyperparameters
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.model_file import ModelFile

Alter = Callable[..., Path]
N_LAYER = 2


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m")
    hp = synthetic_hyperparameters(
        N_LAYER, 64, version="6", n_ffn=96, n_vocab=256, head_size=32, ranks=(8, 24)
    )
    write_synthetic(folder / "m.pth", hp)
    return convert(folder / "m.pth", folder / "m.gguf", "F32").path


def refused(path: Path, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        ModelFile(path)
    text = str(caught.value)
    assert str(path) in text
    assert text.endswith("convert it again")
    assert "\n" not in text


def test_hyperparameters_come_back(path: Path) -> None:
    with ModelFile(path).gguf:
        assert ModelFile(path).hyperparameters == synthetic_hyperparameters(
            N_LAYER, 64, version="6", n_ffn=96, n_vocab=256, head_size=32, ranks=(8, 24)
        )


@pytest.mark.parametrize("key", ["time_mix_extra_dim", "time_decay_extra_dim"])
@pytest.mark.parametrize("value", [None, 0, 7, 9, 1 << 24, 1 << 32, "8", True])
def test_a_rank_that_the_tensors_do_not_have_is_refused(
    altered_gguf: Alter, path: Path, key: str, value: object
) -> None:
    refused(altered_gguf(path, keys={f"rwkv6.{key}": value}), f"{key} is |its place needs")


@pytest.mark.parametrize("value", [0, 48, 3, 65, 1 << 40])
def test_a_head_size_that_does_not_divide_the_width_is_refused(
    altered_gguf: Alter, path: Path, value: int
) -> None:
    keys = {"rwkv6.wkv.head_size": value}
    refused(
        altered_gguf(path, keys=keys), f"head_size is {value}|multiple of the head size {value}"
    )


@pytest.mark.parametrize("value", [-1, 1 << 25, "6", 6.0])
def test_a_rescaling_that_cannot_be_is_refused(
    altered_gguf: Alter, path: Path, value: object
) -> None:
    key = "rwkv6.rescale_every_n_layers"
    # gguf-py writes no negative number as a count.
    keys = {key: np.array([value])} if value == -1 else {key: value}
    refused(altered_gguf(path, keys=keys), "rescale_every_n_layers is")


@pytest.mark.parametrize(("value", "wanted"), [(None, 0), (0, 0), (6, 6)])
def test_a_rescaling_may_be_stated_or_not(
    altered_gguf: Alter, path: Path, value: int | None, wanted: int
) -> None:
    file = ModelFile(altered_gguf(path, keys={"rwkv6.rescale_every_n_layers": value}))
    assert isinstance(file.hyperparameters, Rwkv6Hyperparameters)
    assert file.hyperparameters.rescale_every == wanted
    file.close()


@pytest.mark.parametrize("name", ["time_mix_w2", "time_mix_first", "time_mix_lerp_fused"])
def test_a_tensor_of_another_shape_is_refused(altered_gguf: Alter, path: Path, name: str) -> None:
    tensors = {f"blk.1.{name}.weight": (np.ones((7, 64), np.float32), "F32")}
    refused(altered_gguf(path, tensors=tensors), rf"blk\.1\.{name}\.weight is \[7, 64\]")


def split_lerps(path: Path) -> dict[str, object]:
    """What takes the fused lerps' place in files that llama.cpp's converter wrote at first."""
    tensors: dict[str, object] = {}
    with GgufFile(path) as file:
        for i in range(N_LAYER):
            fused = file.tensors[f"blk.{i}.time_mix_lerp_fused.weight"].decode().copy()
            tensors[f"blk.{i}.time_mix_lerp_fused.weight"] = None
            for letter, row in zip("wkvrg", fused.reshape(5, 64), strict=True):
                tensors[f"blk.{i}.time_mix_lerp_{letter}.weight"] = (row.reshape(1, 1, 64), "F32")
    return tensors


def test_lerps_that_lie_by_themselves_are_the_fused_ones(altered_gguf: Alter, path: Path) -> None:
    older = altered_gguf(path, tensors=split_lerps(path))
    for backend in ("reference", "numba"):
        with Model.load(path, backend=backend) as model, Model.load(older, backend=backend) as same:
            wanted, _ = model.forward([1, 2, 3], all_logits=True)
            np.testing.assert_array_equal(same.forward([1, 2, 3], all_logits=True)[0], wanted)


def test_lerps_that_lie_by_themselves_must_all_be_there(altered_gguf: Alter, path: Path) -> None:
    tensors = split_lerps(path) | {"blk.1.time_mix_lerp_r.weight": None}
    refused(altered_gguf(path, tensors=tensors), r"blk\.1\.time_mix_lerp_fused\.weight is missing")
    tensors["blk.1.time_mix_lerp_r.weight"] = (np.ones(32, np.float32), "F32")
    refused(altered_gguf(path, tensors=tensors), r"blk\.1\.time_mix_lerp_r\.weight is \[32\]")
