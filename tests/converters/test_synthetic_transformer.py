"""A Transformer of a model's size: what gguf-py and llama.cpp make of the file."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from rwkv_edge.converters.synthetic_transformer import shape_like, write_transformer
from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.model_file import ModelFile
from rwkv_edge.quant import QUANT_FORMATS


@pytest.mark.parametrize("name", ["q8_gguf", "q4_gguf", "f32_gguf"])
def test_it_has_the_models_weight_type_and_nearly_its_size(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    model = ModelFile(request.getfixturevalue(name))
    shape = write_transformer(tmp_path / "t.gguf", model)
    reader = gguf.GGUFReader(tmp_path / "t.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert sum(int(np.prod(tensor.shape)) for tensor in tensors.values()) == shape.n_parameters
    wanted = sum(int(np.prod(tensor.shape)) for tensor in model.gguf.tensors.values())
    # The feed-forward net is as wide as comes nearest, in steps of a block of 32.
    step = 3 * shape.n_layer * shape.n_embd * 32
    assert abs(shape.n_parameters - wanted) <= step / 2
    assert tensors["blk.1.ffn_up.weight"].tensor_type.name == model.file_type
    assert tensors["blk.1.ffn_norm.weight"].tensor_type.name == "F32"
    assert (shape.n_layer, shape.n_embd, shape.n_vocab) == (3, 128, 256)
    model.close()


def test_its_weights_are_of_an_ordinary_size(q8_gguf: Path, tmp_path: Path) -> None:
    write_transformer(tmp_path / "t.gguf", ModelFile(q8_gguf))
    for tensor in gguf.GGUFReader(tmp_path / "t.gguf").tensors:
        if tensor.tensor_type.name == "Q8_0":
            columns = int(tensor.shape[0])
            found = QUANT_FORMATS["Q8_0"].decode(np.array(tensor.data), columns)
            # Products with activations of variance 1 have variance 1.
            assert found.std() == pytest.approx(columns**-0.5, rel=0.05)
        else:
            assert (np.array(tensor.data) == 1).all()


def test_keys_are_shared_where_heads_can_be_dealt_out(q8_gguf: Path) -> None:
    shape = shape_like(ModelFile(q8_gguf))
    assert (shape.n_head, shape.n_head_kv) == (2, 1)
    # Keys and values of 64 channels, in 3 layers, of 2 bytes each.
    assert shape.cache_bytes_per_token == 2 * 64 * 3 * 2


def test_rows_that_are_no_whole_blocks_are_refused(
    q8_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelFile(q8_gguf)
    monkeypatch.setattr(QUANT_FORMATS["Q8_0"], "block_len", 96)
    with pytest.raises(UnsupportedModelError, match="128 channels are not whole blocks of Q8_0"):
        write_transformer(tmp_path / "t.gguf", model)
    assert not (tmp_path / "t.gguf").exists()
