"""Random checkpoints: loadable by torch and the official package, the same each time, and sane."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.converters.arch.rwkv7 import Rwkv7Reader
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import (
    CHUNK_WEIGHTS,
    FORMATS,
    synthetic_hyperparameters,
    write_synthetic,
)
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.reference.rwkv7 import Rwkv7


@pytest.mark.parametrize("dtype", FORMATS)
def test_torch_loads_it(tmp_path: Path, tiny: Rwkv7Hyperparameters, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    write_synthetic(tmp_path / "m.pth", tiny, dtype=dtype)
    state = torch.load(tmp_path / "m.pth", weights_only=True)
    assert {str(tensor.dtype) for tensor in state.values()} == {f"torch.{dtype}"}
    assert tuple(state["blocks.0.att.x_r"].shape) == (1, 1, 128)
    assert tuple(state["blocks.0.att.r_k"].shape) == (2, 64)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert Rwkv7Reader().check(shapes) == tiny


def test_layer_0_values_are_there_if_asked_for(tmp_path: Path, tiny: Rwkv7Hyperparameters) -> None:
    for wanted in (False, True):
        write_synthetic(tmp_path / "m.pth", tiny, unused=wanted)
        with open_checkpoint(tmp_path / "m.pth") as checkpoint:
            for name in ("v0", "v1", "v2"):
                assert (f"blocks.0.att.{name}" in checkpoint.names()) is wanted


def test_a_seed_gives_the_same_numbers_and_another_gives_others(tmp_path: Path) -> None:
    # Wide enough that the embedding is made of several chunks, on several threads.
    hp = synthetic_hyperparameters(1, 64, n_vocab=CHUNK_WEIGHTS // 32)
    files = []
    for seed in (1, 1, 2):
        write_synthetic(tmp_path / "m.pth", hp, seed=seed)
        files.append((tmp_path / "m.pth").read_bytes())
    assert files[0] == files[1] != files[2]
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        first, second = checkpoint.read("emb.weight").reshape(2, -1)
        assert not np.array_equal(first, second)


def test_most_activations_of_the_channel_mix_are_zero(tmp_path: Path) -> None:
    hp = synthetic_hyperparameters(1, 256, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp, dtype="float32")
    x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        x = x * checkpoint.read("blocks.0.ln2.weight") + checkpoint.read("blocks.0.ln2.bias")
        k = x @ checkpoint.read("blocks.0.ffn.key.weight").T
    assert 0.85 < (k <= 0).mean() < 0.95


class CountingRwkv7(Rwkv7):
    """Counts the channel mix's activations, and which of them are zero."""

    n_zero = n_seen = 0

    def channel_mix(self, layer: int, x: Float32Array, state: StateArrays) -> Float32Array:
        mu, key = (self.weights[f"blk.{layer}.channel_mix_{n}.weight"] for n in ("lerp_k", "key"))
        k = key @ (x + (state["ffn_x"][layer] - x) * mu.reshape(-1))
        self.n_zero += int((k <= 0).sum())
        self.n_seen += k.size
        return super().channel_mix(layer, x, state)


@pytest.mark.parametrize("zeros", [0.5, 0.67, 0.9])
def test_the_share_of_zeros_is_the_one_asked_for(tmp_path: Path, zeros: float) -> None:
    hp = synthetic_hyperparameters(4, 256, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp, zeros=zeros)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    file = ModelFile(tmp_path / "m.gguf")
    model = CountingRwkv7(file)
    state = {
        name: np.zeros(shape, np.float32)
        for name, shape in file.architecture.state_shapes(hp).items()
    }
    for token in np.random.default_rng(0).integers(1, 256, 60).tolist():
        model.step(token, state)
    file.close()
    # The standard deviation before relu is about one, not exactly.
    assert abs(model.n_zero / model.n_seen - zeros) < 0.03


def test_a_share_of_zeros_that_no_model_has_is_wrong_usage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rwkv_edge.converters.synthetic", str(tmp_path / "m.pth")]
    for share in ("0", "1", "-0.5", "nan"):
        done = subprocess.run([*command, "--zeros", share], capture_output=True, check=False)
        assert done.returncode == 2
    assert not (tmp_path / "m.pth").exists()


OFFICIAL = """
import os, sys
os.environ.update(RWKV_V7_ON=sys.argv[2], RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
from rwkv.model import RWKV
model = RWKV(model=sys.argv[1].removesuffix(".pth"), strategy="cpu fp32")
logits, state = model.forward(list(range(64)), None, full_output=True)
print("spread", logits.std().item(), "largest", logits.abs().max().item(),
      "state", max(part.abs().max().item() for part in state))
"""


@pytest.mark.parametrize("version", ["5.0", "5.1", "5.2", "6", "7"])
def test_activations_neither_explode_nor_vanish_over_24_layers(
    tmp_path: Path, version: str
) -> None:
    """Measured by the official package."""
    pytest.importorskip("torch")
    pytest.importorskip("rwkv")
    hp = synthetic_hyperparameters(24, 256, n_vocab=512, version=version)
    write_synthetic(tmp_path / "m.pth", hp)
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL, str(tmp_path / "m.pth"), str(int(version == "7"))],
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.split("spread", 1)[1].split()
    spread, largest, state = float(words[0]), float(words[2]), float(words[4])
    assert 1 < spread < 4
    assert largest < 20
    assert state < 100


def test_the_command_line_writes_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    command = [sys.executable, "-m", "rwkv_edge.converters.synthetic", str(path)]
    options = "--n-layer 2 --n-embd 128 --n-vocab 300 --n-ffn 96 --ranks 8 16 24 32 --head-size 32"
    subprocess.run([*command, *options.split(), "--dtype", "float16"], check=True)
    with open_checkpoint(path) as checkpoint:
        found = Rwkv7Reader().check(checkpoint.shapes())
        assert checkpoint.dtype("emb.weight") == "float16"
    assert found == synthetic_hyperparameters(
        2, 128, n_ffn=96, n_vocab=300, head_size=32, ranks=(8, 16, 24, 32)
    )
    refused = subprocess.run([*command, "--n-embd", "100"], capture_output=True, check=False)
    assert refused.returncode == 2


def test_the_default_ranks_are_those_of_the_published_models() -> None:
    for n_embd, ranks in ((768, (64, 64, 32, 128)), (2048, (96, 96, 64, 256))):
        hp = synthetic_hyperparameters(1, n_embd)
        assert (hp.decay_rank, hp.iclr_rank, hp.value_rank, hp.gate_rank) == ranks


def test_a_checkpoint_that_is_not_finished_does_not_appear(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(b"older")

    def chunks() -> Iterator[bytes]:
        yield bytes(8)
        raise KeyboardInterrupt

    def interrupted() -> None:
        with PthWriter(path) as writer:
            writer.add("a", "float32", (4,), chunks())

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
