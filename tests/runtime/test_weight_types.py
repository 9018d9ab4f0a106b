"""Whole models of every weight type: numba, the plain reference, and llama.cpp.

Weights are quantized by ggml, tensor by tensor, and written by gguf-py.
"""

import zlib

import numpy as np
import pytest

from rwkv_edge import FormatError, Model
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.quant import Q8_0, QUANT_FORMATS
from tests import ggml

FLOATS = ("F32", "F16", "BF16")
TYPES = [name for name in QUANT_FORMATS if name not in FLOATS]
# RWKV-4 and 5 have no llama.cpp architecture.
IN_LLAMA = ("6", "7")
N_VOCAB = 256
TOKENS = np.random.default_rng(3).integers(0, N_VOCAB, 21).astype(np.int32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A random model of each version in float32, whose larger matrices are whole super-blocks."""
    folder = tmp_path_factory.mktemp("sources")

    def source(version):
        path = folder / f"rwkv{version}.gguf"
        if not path.exists():
            hp = synthetic_hyperparameters(2, 256, version=version, n_ffn=512, n_vocab=N_VOCAB)
            checkpoint = path.with_suffix(".pth")
            write_synthetic(checkpoint, hp, seed=4, dtype="float32")
            convert(checkpoint, path, "F32")
        return path

    return source


@pytest.fixture
def retyped(altered_gguf):
    """A copy of a float32 GGUF with `choose(name)` as the type of each matrix that it fits."""

    def retype(source, choose):
        tensors = {}
        with GgufFile(source) as file:
            for name, tensor in file.tensors.items():
                quant = QUANT_FORMATS[choose(name)]
                whole = tensor.shape[-1] % quant.block_len == 0
                # Norms, lerps and other vectors are never quantized.
                is_matrix = len(tensor.shape) == 2 and tensor.shape[0] > 1
                if is_matrix and whole and "time_mix_first" not in name and "decay" not in name:
                    rows = np.ascontiguousarray(tensor.decode().reshape(tensor.shape))
                    raw = ggml.encode(quant, rows) if quant.block_len > 1 else quant.encode(rows)
                    tensors[name] = (raw, quant.__name__)
        assert len(tensors) > 10
        return altered_gguf(source, tensors=tensors)

    return retype


def logits_of(path, backend, threads=1):
    with Model.load(path, backend=backend, threads=threads) as model:
        return model.forward(TOKENS, all_logits=True)[0]


def difference(found, wanted):
    return np.abs(found - wanted).max() / np.ptp(wanted)


@pytest.mark.parametrize("version", ["5.2", "6", "7"])
@pytest.mark.parametrize("weight_type", TYPES)
def test_a_model_of_one_type_gives_the_logits_of_other_engines(
    weight_type, version, sources, retyped
):
    path = retyped(sources(version), lambda name: weight_type)
    numba = logits_of(path, "numba")
    # Codes are multiplied by inputs of 8 bits, whose steps are about 1 % of a typical input; each
    # of the layers adds its own. llama.cpp rounds its inputs in another way.
    assert difference(numba, logits_of(path, "reference")) < 4e-2
    if version in IN_LLAMA:
        pytest.importorskip("llama_cpp")
        assert difference(numba, logits_of(path, "llama")) < 4e-2


def spread_types(name):
    """Another type for each tensor."""
    names = [*TYPES, *FLOATS]
    return names[zlib.crc32(name.encode()) % len(names)]


@pytest.mark.parametrize("version", ["4", "6", "7"])
def test_types_may_be_mixed_in_one_file(version, sources, retyped):
    path = retyped(sources(version), spread_types)
    with GgufFile(path) as file:
        found = {tensor.quant_format.__name__ for tensor in file.tensors.values()}
    assert len(found) > 8
    numba = logits_of(path, "numba", threads=2)
    assert difference(numba, logits_of(path, "reference")) < 4e-2
    if version in IN_LLAMA:
        pytest.importorskip("llama_cpp")
        assert difference(numba, logits_of(path, "llama")) < 4e-2


@pytest.mark.parametrize("weight_type", TYPES)
def test_a_prompt_at_once_and_token_by_token_give_the_same_bits(weight_type, sources, retyped):
    path = retyped(sources("7"), lambda name: weight_type)
    with Model.load(path, threads=2) as model:
        rows, _ = model.forward(TOKENS, all_logits=True)
        state = model.new_state()
        singles = np.stack([model.forward([token], state)[0] for token in TOKENS])
        np.testing.assert_array_equal(rows, singles)


@pytest.mark.parametrize("name", ["blk.1.channel_mix_value.weight", "output.weight"])
def test_a_scale_that_is_no_number_ends_the_load_in_one_sentence(name, sources, altered_gguf):
    with GgufFile(sources("7")) as file:
        rows = file.tensors[name].decode().reshape(file.tensors[name].shape)
        raw = Q8_0.encode(rows)
    Q8_0.blocks(raw, rows.shape[1])["scale"][-1, 2] = 0x7E00
    path = altered_gguf(sources("7"), tensors={name: (raw, "Q8_0")})
    with pytest.raises(FormatError, match=f"m.gguf: tensor {name} .Q8_0. holds .*NaN"):
        Model.load(path)


def test_a_vector_with_infinity_ends_the_load_in_one_sentence(sources, altered_gguf):
    name = "blk.0.attn_norm.weight"
    with GgufFile(sources("7")) as file:
        values = file.tensors[name].decode().copy()
    values.reshape(-1)[7] = np.inf
    path = altered_gguf(sources("7"), tensors={name: (values, "F32")})
    with pytest.raises(FormatError, match=f"m.gguf: tensor {name} holds .*infinite"):
        Model.load(path)
