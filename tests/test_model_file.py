"""Model files against their architecture: what does not fit is refused, by name."""

import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rwkv_edge import FormatError, InputError, Model, RwkvEdgeError, UnsupportedModelError
from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.model_file import ModelFile

Alter = Callable[..., Path]


def refused(path: Path, match: str, error: type[RwkvEdgeError] = FormatError) -> None:
    """Opening it, or asking for its tokenizer, fails in one line that names the file."""

    def open_whole() -> None:
        file = ModelFile(path)
        try:
            assert file.tokenizer
        finally:
            file.close()

    with pytest.raises(error, match=match) as caught:
        open_whole()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400


def ones(*shape: int) -> tuple[Any, str]:
    return np.ones(shape, np.float32), "F32"


def test_hyperparameters_and_tensors_are_those_of_the_checkpoint(
    q8_gguf: Path, tiny_hyperparameters: Rwkv7Hyperparameters
) -> None:
    file = ModelFile(q8_gguf)
    assert file.hyperparameters == tiny_hyperparameters
    for spec in file.architecture.tensors(file.hyperparameters):
        tensor = file.tensor(spec.name)
        assert tensor.shape == spec.shape
        assert tensor.decode().shape == spec.shape
    file.close()


def test_what_is_altered_by_the_helper_alone_still_loads(
    altered_gguf: Alter, words_gguf: Path
) -> None:
    file, copy = ModelFile(words_gguf), ModelFile(altered_gguf(words_gguf))
    assert copy.fingerprint == file.fingerprint
    assert copy.tokenizer.encode("ab END.\n") == file.tokenizer.encode("ab END.\n")
    file.close()
    copy.close()


@pytest.mark.parametrize(
    "name",
    ["token_embd.weight", "blk.1.time_mix_g2.weight", "blk.0.time_mix_v1.weight", "output.weight",
     "blk.2.attn_norm.bias"],
)  # fmt: skip
def test_a_missing_tensor_is_named(altered_gguf: Alter, q8_gguf: Path, name: str) -> None:
    refused(altered_gguf(q8_gguf, tensors={name: None}), f"tensor {name} is missing")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.1.time_mix_key.weight", (128, 64)),
        ("blk.1.time_mix_w1.weight", (128, 32)),
        ("blk.0.channel_mix_key.weight", (128, 320)),
        ("blk.2.time_mix_lerp_fused.weight", (5, 1, 1, 128)),
        ("output_norm.weight", (256,)),
        ("output_norm.weight", (128, 2)),
        ("output.weight", (255, 128)),
    ],
)
def test_a_tensor_of_another_shape_is_named(
    altered_gguf: Alter, q8_gguf: Path, name: str, shape: tuple[int, ...]
) -> None:
    refused(altered_gguf(q8_gguf, tensors={name: ones(*shape)}), f"tensor {name} is ")


def test_an_embedding_that_is_no_matrix_is_refused(altered_gguf: Alter, q8_gguf: Path) -> None:
    path = altered_gguf(q8_gguf, tensors={"token_embd.weight": ones(128)})
    refused(path, r"token_embd.weight is \[128\]; it needs 2 dimensions")


def test_a_quantized_vector_is_refused(altered_gguf: Alter, q8_gguf: Path) -> None:
    raw = gguf.quantize(np.ones((1, 128), np.float32), gguf.GGMLQuantizationType.Q8_0)
    path = altered_gguf(q8_gguf, tensors={"output_norm.weight": (raw.view(np.uint8)[0], "Q8_0")})
    refused(path, "output_norm.weight is Q8_0; vectors are not quantized")


@pytest.mark.parametrize("shape", [(128, 1), (1, 128), (1, 1, 128), (128, 1, 1, 1)])
def test_ones_around_a_vector_make_no_difference(
    altered_gguf: Alter, q8_gguf: Path, shape: tuple[int, ...]
) -> None:
    """As a vector of shape (128, 1) would be broadcast to a matrix where it is multiplied."""
    names = ["output_norm.weight", "blk.1.attn_norm.bias", "blk.1.time_mix_k_k.weight"]
    with GgufFile(q8_gguf) as file:
        values = {
            name: (file.tensors[name].decode().reshape(shape).copy(), "F32") for name in names
        }
    path = altered_gguf(q8_gguf, tensors=values)
    tokens = list(b"the same numbers")
    for backend in ("numba", "reference"):
        with Model.load(q8_gguf, backend) as wanted, Model.load(path, backend) as found:
            assert np.array_equal(found.forward(tokens)[0], wanted.forward(tokens)[0])


def test_a_matrix_with_its_one_on_the_other_side_is_not_misread(
    altered_gguf: Alter, q8_gguf: Path
) -> None:
    """Rank 1: w1 is (1, 128), w2 is (128, 1), and only their ones tell them apart."""
    tensors = {
        f"blk.{layer}.time_mix_{name}.weight": ones(*shape)
        for layer in range(3)
        for name, shape in (("w1", (128, 1)), ("w2", (1, 128)))
    }
    keys = {"rwkv7.attention.decay_lora_rank": 1}
    with ModelFile(altered_gguf(q8_gguf, keys=keys, tensors=tensors)).gguf as file:
        assert file.tensors["blk.1.time_mix_w1.weight"].decode().shape == (1, 128)
        assert file.tensors["blk.1.time_mix_w2.weight"].decode().shape == (128, 1)


@pytest.mark.parametrize("name", ["llama", "rwkv", "rwkv7\n", "RWKV7", "", "x" * 10_000])
def test_another_architecture_is_unsupported(altered_gguf: Alter, q8_gguf: Path, name: str) -> None:
    path = altered_gguf(q8_gguf, keys={"general.architecture": name})
    refused(path, "its architecture is ", UnsupportedModelError)


@pytest.mark.parametrize("n_layer", [0, 1_000, 1 << 24, 10**9, 1 << 63])
def test_a_block_count_that_cannot_be_is_refused_before_its_layers_are_listed(
    altered_gguf: Alter, q8_gguf: Path, n_layer: int
) -> None:
    path = altered_gguf(q8_gguf, keys={"rwkv7.block_count": n_layer})
    tracemalloc.start()
    try:
        refused(path, f"block_count is {n_layer};|announces {n_layer:,} layers in 90 tensors")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("n_layer", [2, 4])
def test_a_block_count_of_one_more_misses_tensors_and_of_one_less_is_harmless(
    altered_gguf: Alter, q8_gguf: Path, n_layer: int
) -> None:
    path = altered_gguf(q8_gguf, keys={"rwkv7.block_count": n_layer})
    if n_layer == 4:
        refused(path, "tensor blk.3.attn_norm.weight is missing")
    else:
        with Model.load(path) as model:
            assert np.isfinite(model.forward([1])[0]).all()


RANKS = ["decay", "iclr", "value_residual_mix", "gate"]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("value", [0, 31, 1 << 24, 1 << 32, (1 << 64) - 1])
def test_a_rank_that_the_tensors_do_not_have_is_refused(
    altered_gguf: Alter, q8_gguf: Path, rank: str, value: int
) -> None:
    path = altered_gguf(q8_gguf, keys={f"rwkv7.attention.{rank}_lora_rank": value})
    refused(path, f"{rank}_lora_rank is {value}|its place needs")


@pytest.mark.parametrize("value", [0, 48, 3, 129, 1 << 40])
def test_a_head_size_that_does_not_divide_the_width_is_refused(
    altered_gguf: Alter, q8_gguf: Path, value: int
) -> None:
    path = altered_gguf(q8_gguf, keys={"rwkv7.wkv.head_size": value})
    refused(path, f"head_size is {value}|not a multiple of the head size {value}")


@pytest.mark.parametrize("key", ["embedding_length", "feed_forward_length", "block_count"])
@pytest.mark.parametrize("value", [None, "128", 128.0, True, [128], 1 << 63])
def test_a_count_that_is_missing_or_no_count_is_refused(
    altered_gguf: Alter, q8_gguf: Path, key: str, value: object
) -> None:
    path = altered_gguf(q8_gguf, keys={f"rwkv7.{key}": value})
    refused(path, f"rwkv7.{key} is ")


def test_more_tokens_than_embeddings_are_refused(altered_gguf: Alter, q8_gguf: Path) -> None:
    path = altered_gguf(q8_gguf, keys={"tokenizer.ggml.tokens": ["a"] * 257})
    refused(path, "it holds 257 tokens; the model has 256 ids")


def test_fewer_embeddings_than_bytes_are_refused(altered_gguf: Alter, q8_gguf: Path) -> None:
    fewer = {name: ones(200, 128) for name in ("token_embd.weight", "output.weight")}
    keys = {"tokenizer.ggml.tokens": ["a"] * 200}
    refused(altered_gguf(q8_gguf, tensors=fewer, keys=keys), "needs 256 ids; the model has 200")


def test_an_embedding_and_a_head_of_different_vocabularies_are_refused(
    altered_gguf: Alter, q8_gguf: Path
) -> None:
    path = altered_gguf(q8_gguf, tensors={"token_embd.weight": ones(300, 128)})
    refused(path, r"output.weight is \[256, 128\]; its place needs \[300, 128\]")


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("tokenizer.ggml.model", None, FormatError),
        ("tokenizer.ggml.model", "gpt2", UnsupportedModelError),
        ("tokenizer.ggml.model", 5, FormatError),
        ("tokenizer.ggml.model", ["rwkv", "rwkv"], FormatError),
        ("tokenizer.ggml.model", np.arange(3000), FormatError),
        ("rwkv_edge.tokenizer", "words", UnsupportedModelError),
        ("rwkv_edge.tokenizer", np.arange(3), FormatError),
        ("tokenizer.ggml.tokens", None, FormatError),
        ("tokenizer.ggml.tokens", "abc", FormatError),
        ("tokenizer.ggml.tokens", np.arange(300), FormatError),
        ("tokenizer.ggml.token_type", None, FormatError),
        ("tokenizer.ggml.token_type", [1, 2, 3], FormatError),
    ],
)
def test_a_tokenizer_that_is_missing_or_damaged_is_refused(
    altered_gguf: Alter, words_gguf: Path, key: str, value: object, error: type[RwkvEdgeError]
) -> None:
    refused(altered_gguf(words_gguf, keys={key: value}), "tokenizer", error)


def test_a_damaged_tokenizer_is_found_before_the_weights_are_loaded(
    altered_gguf: Alter, q8_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwkv_edge.runtime import backends

    def load_backend(*_: object) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(backends, "load_backend", load_backend)
    path = altered_gguf(q8_gguf, keys={"tokenizer.ggml.model": None})
    with pytest.raises(FormatError, match="no tokenizer"):
        Model.load(path)


def test_the_fingerprint_names_the_checkpoint_and_not_its_weight_type(
    q8_gguf: Path, q4_gguf: Path, f32_gguf: Path, other_gguf: Path
) -> None:
    files = [ModelFile(path) for path in (q8_gguf, q4_gguf, f32_gguf, other_gguf)]
    q8, q4, f32, other = (file.fingerprint for file in files)
    assert q8 == q4 == f32
    assert other != q8
    assert len(q8) == 32
    for file in files:
        file.close()


def test_one_changed_number_of_a_vector_changes_the_fingerprint(
    altered_gguf: Alter, q8_gguf: Path
) -> None:
    with GgufFile(q8_gguf) as file:
        bias = file.tensors["blk.1.attn_norm.bias"].decode().copy()
    bias[5] += 1e-3
    file, changed = (
        ModelFile(q8_gguf),
        ModelFile(altered_gguf(q8_gguf, tensors={"blk.1.attn_norm.bias": (bias, "F32")})),
    )
    assert changed.fingerprint != file.fingerprint
    file.close()
    changed.close()


def test_file_type_is_what_most_bytes_of_matrices_are_in(
    q8_gguf: Path, q4_gguf: Path, f32_gguf: Path
) -> None:
    for path, wanted in ((q8_gguf, "Q8_0"), (q4_gguf, "Q4_0"), (f32_gguf, "F32")):
        file = ModelFile(path)
        assert file.file_type == wanted
        file.close()


def test_closing_twice_is_harmless(q8_gguf: Path) -> None:
    file = ModelFile(q8_gguf)
    file.close()
    file.close()


def test_an_engine_and_a_thread_count_that_do_not_exist_are_refused(q8_gguf: Path) -> None:
    with pytest.raises(InputError, match="backend 'tpu' does not exist"):
        Model.load(q8_gguf, "tpu")
    with pytest.raises(InputError, match="threads is 0"):
        Model.load(q8_gguf, threads=0)


def test_extra_tensors_are_let_be(altered_gguf: Alter, q8_gguf: Path) -> None:
    path = altered_gguf(q8_gguf, tensors={"rope_freqs.weight": ones(64)})
    with Model.load(path) as model, Model.load(q8_gguf) as plain:
        assert np.array_equal(model.forward([1, 2])[0], plain.forward([1, 2])[0])


def test_hyperparameters_are_frozen(tiny_hyperparameters: Rwkv7Hyperparameters) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_hyperparameters.n_layer = 1  # type: ignore[misc]
