"""RWKV-7a (DeepEmbed) against the official `rwkv` package, on random checkpoints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.reference.rwkv7a import Rwkv7a
from tests.runtime.arch.oracle import (
    TOLERANCE,
    check,
    difference,
    official_logits,
    require_official_package,
)

STORED = Path(__file__).parent / "rwkv7a_official_logits.npz"
N_VOCAB = 256
# Random checkpoints, by name: layers, width, ffn width, head size, ranks.
RANDOM_SHAPES = {
    "wide": (2, 192, 448, 64, (32, 32, 32, 64)),
    "deep": (3, 64, 256, 32, (16, 24, 8, 40)),
    # Widths that are no multiple of 32, an ffn width and ranks that are none of 16.
    "odd": (2, 80, 200, 16, (5, 7, 3, 11)),
    "one": (1, 96, 333, 48, (16, 16, 16, 16)),
}


def write_random(path, name, n_vocab=N_VOCAB):
    n_layer, n_embd, n_ffn, head_size, ranks = RANDOM_SHAPES[name]
    hyperparameters = synthetic_hyperparameters(
        n_layer,
        n_embd,
        version="7a",
        n_ffn=n_ffn,
        n_vocab=n_vocab,
        head_size=head_size,
        ranks=ranks,
    )
    write_synthetic(path, hyperparameters, seed=11)


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("name", list(RANDOM_SHAPES))
def test_random_checkpoint_gives_the_stored_official_logits(name, backend, tmp_path):
    # Written by make_stored_logits.py beside this file, so that the suite needs no torch.
    stored = np.load(STORED)
    write_random(tmp_path / "m.pth", name)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    check(tmp_path / "m.gguf", backend, stored["tokens"], stored[name])


@pytest.mark.parametrize("name", list(RANDOM_SHAPES))
def test_stored_logits_are_what_the_official_package_gives(name, tmp_path):
    require_official_package()
    stored = np.load(STORED)
    write_random(tmp_path / "m.pth", name)
    found = official_logits("7a", tmp_path / "m.pth", stored["tokens"])
    assert difference(found, stored[name]) < TOLERANCE


def test_without_the_token_s_matrix_the_logits_are_others(tmp_path):
    """Were DeepEmbed left out, no bound of this file would hold."""
    stored = np.load(STORED)
    write_random(tmp_path / "m.pth", "wide")
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    file = ModelFile(tmp_path / "m.gguf")
    model = Rwkv7a(file)
    for layer in range(file.hyperparameters.n_layer):
        name = f"blk.{layer}.channel_mix_s2.weight"
        model.weights[name] = np.zeros_like(model.weights[name])
    shapes = file.architecture.state_shapes(file.hyperparameters)
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    logits = np.stack([model.logits(model.step(int(t), state)) for t in stored["tokens"]])
    file.close()
    assert difference(logits, stored["wide"]) > 0.02


@pytest.mark.parametrize("name", ["wide", "odd"])
@pytest.mark.parametrize(
    ("weight_type", "bound"),
    # Of the spread of the logits. F16 and BF16 hold 11 and 8 bits of a number, Q8_0 and Q4_0 codes
    # of 8 and 4 bits per block of 32, on random weights, whose errors do not average out.
    [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 3e-2), ("Q4_0", 0.35)],
)
def test_every_weight_type_stays_near_the_float32_logits(weight_type, bound, name, tmp_path):
    stored = np.load(STORED)
    write_random(tmp_path / "m.pth", name)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
    logits = {}
    for backend in ("reference", "numba"):
        with Model.load(tmp_path / "m.gguf", backend=backend) as model:
            logits[backend], _ = model.forward(stored["tokens"], all_logits=True)
    assert difference(logits["reference"], stored[name]) < bound
    # Codes are multiplied by inputs of 8 bits, whose steps are about 1 % of a typical input; each
    # of the layers adds its own.
    exact = weight_type in ("F16", "BF16")
    assert difference(logits["numba"], logits["reference"]) < (TOLERANCE if exact else 4e-2)


@pytest.mark.parametrize("weight_type", ["Q4_0", "F16"])
def test_threads_and_parts_of_a_prompt_do_not_change_the_bits(weight_type, tmp_path):
    write_random(tmp_path / "m.pth", "wide")
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
    tokens = np.random.default_rng(8).integers(0, N_VOCAB, 30)
    found = []
    for threads in (1, 2, 5):
        with Model.load(tmp_path / "m.gguf", threads=threads) as model:
            found.append(model.forward(tokens, all_logits=True)[0])
            state = model.new_state()
            found.append(np.stack([model.forward([token], state)[0] for token in tokens]))
    for logits in found[1:]:
        np.testing.assert_array_equal(logits, found[0])


@pytest.mark.parametrize(
    ("weight_type", "table"), [("F32", "F32"), ("F16", "F16"), ("Q8_0", "Q8_0"), ("Q4_0", "Q8_0")]
)
def test_tables_never_go_below_8_bits(weight_type, table, tmp_path):
    write_random(tmp_path / "m.pth", "deep")
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
    file = ModelFile(tmp_path / "m.gguf")
    n_bytes = sum(tensor.raw.nbytes for tensor in file.gguf.tensors.values())
    for layer in range(3):
        tensor = file.tensor(f"blk.{layer}.channel_mix_s_emb.weight")
        assert tensor.quant_format.__name__ == table
        assert tensor.shape == (N_VOCAB, 1024)
        n_bytes -= tensor.raw.nbytes
    # What a token reads: of tables only a row.
    assert file.bytes_per_token < n_bytes
    file.close()


# Anonymous memory and mapped pages that are resident, before and after, in KiB.
LOADING = """
import sys
from rwkv_edge import Model
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile")))
with Model.load(sys.argv[2], backend=sys.argv[3]) as small:
    small.forward([1, 2, 3])
    before = resident()
    with Model.load(sys.argv[1], backend=sys.argv[3]) as model:
        model.forward([1, 2, 3])
        print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_loading_leaves_the_tables_in_the_file(backend, tmp_path):
    # The vocabulary is what the tables grow with: 24 MiB of them here.
    n_vocab = 4096
    (tmp_path / "m.vocab.txt").write_text("1 'a' 1\n")
    write_random(tmp_path / "m.pth", "deep", n_vocab)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F16")
    write_random(tmp_path / "small.pth", "deep")
    convert(tmp_path / "small.pth", tmp_path / "small.gguf", "F16")
    file = ModelFile(tmp_path / "m.gguf")
    tables = sum(t.raw.nbytes for name, t in file.gguf.tensors.items() if "s_emb" in name)
    file.close()
    found = subprocess.run(
        [sys.executable, "-c", LOADING, tmp_path / "m.gguf", tmp_path / "small.gguf", backend],
        check=True,
        capture_output=True,
        text=True,
    )
    assert tables == 3 * n_vocab * 2048
    assert int(found.stdout) * 1024 < tables / 3
