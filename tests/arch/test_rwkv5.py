"""An RWKV-5 GGUF says which stage it is, and may lie in that as in all else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.arch import architecture_of
from rwkv_edge.arch.rwkv5 import LERPS
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError
from rwkv_edge.model_file import ModelFile

Alter = Callable[..., Path]


@pytest.fixture(scope="module", params=list(LERPS))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m")
    hp = synthetic_hyperparameters(2, 64, version=version, n_ffn=96, n_vocab=256, head_size=32)
    write_synthetic(folder / "m.pth", hp)
    return convert(folder / "m.pth", folder / "m.gguf", "F32").path


def refused(path: Path, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        ModelFile(path)
    text = str(caught.value)
    assert str(path) in text
    assert text.endswith("convert it again")
    assert "\n" not in text


def test_the_stage_comes_back(path: Path, version: str) -> None:
    file = ModelFile(path)
    assert file.hyperparameters == synthetic_hyperparameters(
        2, 64, version=version, n_ffn=96, n_vocab=256, head_size=32
    )
    assert architecture_of(version) is file.architecture
    file.close()


@pytest.mark.parametrize("value", [None, "5", "6", "5.2\n", "x" * 10_000, 5.2, 5, np.ones(3)])
def test_a_stage_that_does_not_exist_is_refused(
    altered_gguf: Alter, path: Path, value: object
) -> None:
    refused(altered_gguf(path, keys={"rwkv5.version": value}), "key rwkv5.version is .*may be 5")


@pytest.mark.parametrize("value", [0, 48, 3, 65, 1 << 40])
def test_a_head_size_that_does_not_divide_the_width_is_refused(
    altered_gguf: Alter, path: Path, value: int
) -> None:
    keys = {"rwkv5.wkv.head_size": value}
    refused(
        altered_gguf(path, keys=keys), f"head_size is {value}|multiple of the head size {value}"
    )


@pytest.mark.parametrize("key", ["embedding_length", "feed_forward_length", "block_count"])
@pytest.mark.parametrize("value", [None, "64", True, 1 << 63])
def test_a_count_that_is_missing_or_no_count_is_refused(
    altered_gguf: Alter, path: Path, key: str, value: object
) -> None:
    refused(altered_gguf(path, keys={f"rwkv5.{key}": value}), f"rwkv5.{key} is ")


@pytest.mark.parametrize("name", ["time_mix_first", "time_mix_decay", "time_mix_lerp_fused"])
def test_a_tensor_of_another_shape_is_refused(altered_gguf: Alter, path: Path, name: str) -> None:
    tensors = {f"blk.1.{name}.weight": (np.ones((7, 64), np.float32), "F32")}
    refused(altered_gguf(path, tensors=tensors), rf"blk\.1\.{name}\.weight is \[7, 64\]")
