"""Files of each version that lie about their shape are refused, by the key or tensor that lies."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import FormatError, Model
from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.model_file import ModelFile

Alter = Callable[..., Path]
# By version: ranks, and a few tensors of one layer with their shapes for 2 layers of 64, ffn 160.
RANKS = {"4": None, "7a": (8, 16, 24, 40)}
TENSORS = {
    "4": {
        "time_mix_decay.weight": (64,),
        "time_mix_lerp_fused.weight": (3, 1, 1, 64),
        "channel_mix_receptance.weight": (64, 64),
    },
    "7a": {
        "channel_mix_s0.weight": (160,),
        "channel_mix_s2.weight": (160, 32),
        "channel_mix_s_emb.weight": (256, 1024),
    },
}


@pytest.fixture(scope="module", params=list(TENSORS))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    hp = synthetic_hyperparameters(
        2, 64, version=version, n_ffn=160, n_vocab=256, ranks=RANKS[version]
    )
    write_synthetic(folder / "m.pth", hp)
    convert(folder / "m.pth", folder / "m.gguf", "Q8_0")
    return folder / "m.gguf"


def test_a_file_that_tells_the_truth_is_read(path: Path, version: str) -> None:
    file = ModelFile(path)
    assert file.hyperparameters.version == version
    assert file.architecture is architecture_of(version)
    for spec in file.architecture.tensors(file.hyperparameters):
        assert file.tensor(spec.name).shape == spec.shape
    file.close()


@pytest.mark.parametrize("key", ["embedding_length", "feed_forward_length", "block_count"])
@pytest.mark.parametrize("value", [None, "64", 64.0, 0, 1 << 24, 1 << 63])
def test_a_count_that_the_tensors_do_not_have_is_refused(
    altered_gguf: Alter, path: Path, version: str, key: str, value: object
) -> None:
    changed = altered_gguf(path, keys={f"rwkv{version}.{key}": value})
    tracemalloc.start()
    try:
        with pytest.raises(
            FormatError, match=rf"m\.gguf: .*(rwkv{version}\.{key} is|announces|needs)"
        ):
            ModelFile(changed)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(
    altered_gguf: Alter, path: Path, version: str
) -> None:
    for name, shape in TENSORS[version].items():
        with pytest.raises(FormatError, match=rf"blk\.1\.{name} is missing"):
            ModelFile(altered_gguf(path, tensors={f"blk.1.{name}": None}))
        for other in ((shape[0] - 1, *shape[1:]), (*shape[:-1], shape[-1] * 2)):
            array = np.ones(other, np.float32)
            with pytest.raises(FormatError, match=rf"blk\.1\.{name} is \["):
                ModelFile(altered_gguf(path, tensors={f"blk.1.{name}": (array, "F32")}))


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_matrices_in_formats_that_no_converter_chooses_still_run(
    altered_gguf: Alter, path: Path, version: str, backend: str
) -> None:
    """Small matrices as F32 in a file of Q8_0 give nearly the same logits."""
    file = ModelFile(path)
    wide = {
        f"blk.{layer}.{name}": (file.tensor(f"blk.{layer}.{name}").decode().copy(), "F32")
        for layer in range(2)
        for name, shape in TENSORS[version].items()
        if len(shape) == 2
    }
    file.close()
    tokens = list(b"whatever they are stored in")
    with Model.load(path, backend) as one, Model.load(altered_gguf(path, tensors=wide)) as other:
        wanted, found = one.forward(tokens)[0], other.forward(tokens)[0]
    # Activations of 8 bits on one side, float32 on the other.
    assert np.abs(found - wanted).max() < 0.04 * (wanted.max() - wanted.min())
