"""Small models of random weights, made once, and GGUF files with something wrong in them."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.quant import QUANT_FORMATS

# Words beside all bytes: they hold parts of stop texts, ends of characters, and one another.
WORDS = [
    b".\n", b"\n\n", b"\n\nUser", b"User", b"er: ", b"a\xc3", b"\xc3\xa9", b"\xe2\x82", b"ab",
    b"aab", b" the", b"END", b"NDx", b"xE", b"\xa9\xc3",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_hyperparameters() -> Rwkv7Hyperparameters:
    """Every rank and width differs, so that nothing fits in another's place."""
    return synthetic_hyperparameters(3, 128, n_ffn=320, n_vocab=256, ranks=(32, 64, 40, 96))


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def made(
    folder: Path, hp: Rwkv7Hyperparameters, name: str, weight_type: str, seed: int = 0
) -> Path:
    """A random checkpoint of this seed as a GGUF."""
    checkpoint = folder / f"seed{seed}-{hp.n_vocab}.pth"
    if not checkpoint.exists():
        write_synthetic(checkpoint, hp, seed=seed)
    convert(checkpoint, folder / name, weight_type)
    return folder / name


@pytest.fixture(scope="session")
def q8_gguf(models_folder: Path, tiny_hyperparameters: Rwkv7Hyperparameters) -> Path:
    """Random weights in Q8_0, over bytes."""
    return made(models_folder, tiny_hyperparameters, "tiny-q8.gguf", "Q8_0")


@pytest.fixture(scope="session")
def q4_gguf(models_folder: Path, tiny_hyperparameters: Rwkv7Hyperparameters) -> Path:
    """The same checkpoint in Q4_0."""
    return made(models_folder, tiny_hyperparameters, "tiny-q4.gguf", "Q4_0")


@pytest.fixture(scope="session")
def f32_gguf(models_folder: Path, tiny_hyperparameters: Rwkv7Hyperparameters) -> Path:
    """The same checkpoint in F32: engines differ by rounding alone."""
    return made(models_folder, tiny_hyperparameters, "tiny-f32.gguf", "F32")


@pytest.fixture(scope="session")
def other_gguf(models_folder: Path, tiny_hyperparameters: Rwkv7Hyperparameters) -> Path:
    """Another checkpoint of the same shape."""
    return made(models_folder, tiny_hyperparameters, "other-q8.gguf", "Q8_0", seed=1)


@pytest.fixture(scope="session")
def words_gguf(models_folder: Path, tiny_hyperparameters: Rwkv7Hyperparameters) -> Path:
    """A vocabulary of all bytes, `WORDS` and padding, whose id 0 ends a document."""
    tokens = [*(bytes([i]) for i in range(256)), *WORDS]
    hp = dataclasses.replace(tiny_hyperparameters, n_vocab=320)
    lines = [f"{i} {token!r} {len(token)}\n" for i, token in enumerate(tokens, 1)]
    (models_folder / "seed0-320.vocab.txt").write_text("".join(lines), encoding="utf-8")
    return made(models_folder, hp, "words-f32.gguf", "F32")


@pytest.fixture(scope="session")
def tiny_model(q8_gguf: Path) -> Iterator[Model]:
    """Shared by tests that only run it: never closed by one of them."""
    with Model.load(q8_gguf, threads=2) as model:
        yield model


@pytest.fixture(scope="session")
def words_model(words_gguf: Path) -> Iterator[Model]:
    with Model.load(words_gguf, threads=1) as model:
        yield model


@pytest.fixture
def altered_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A copy of a GGUF, written by gguf-py, with other keys or tensors.

    keys, tensors: what to put in place, by name; None takes one out. A tensor is (array as
    gguf-py takes it, name of its format); raw bytes where the format is quantized.
    """

    def alter(
        source: Path,
        *,
        keys: dict[str, Any] | None = None,
        tensors: dict[str, tuple[Any, str] | None] | None = None,
    ) -> Path:
        # A dull name: pytest's own holds the test's, which a `match` would find.
        path = tmp_path_factory.mktemp("a") / "m.gguf"
        with GgufFile(source) as file:
            metadata = {**file.metadata, **(keys or {})}
            contents: dict[str, Any] = {
                name: (tensor.raw.reshape(*tensor.shape[:-1], -1), tensor.quant_format.__name__)
                for name, tensor in file.tensors.items()
            }
            contents.update(tensors or {})
            writer = gguf.GGUFWriter(path, str(metadata.pop("general.architecture")))
            for key, value in metadata.items():
                if value is not None:
                    add_key(writer, key, value)
            for name, content in contents.items():
                if content is not None:
                    array, quant = content
                    raw_dtype = gguf.GGMLQuantizationType(QUANT_FORMATS[quant].ggml_type)
                    # gguf-py counts the elements of bytes by their format.
                    writer.add_tensor(name, np.array(array).view(np.uint8), raw_dtype=raw_dtype)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            del contents
        return path

    return alter


@pytest.fixture
def rescaled_gguf(altered_gguf: Callable[..., Path]) -> Callable[[Path, int], Path]:
    """A copy of an RWKV-6 GGUF of type F32 as public ones are: rescaled after every few layers."""

    def rescale(source: Path, every: int) -> Path:
        tensors = {}
        with GgufFile(source) as file:
            n_layer = file.metadata["rwkv6.block_count"]
            assert isinstance(n_layer, int)
            for layer in range(n_layer):
                for name in ("time_mix_output", "channel_mix_value"):
                    weights = file.tensors[f"blk.{layer}.{name}.weight"].decode()
                    divided = np.ldexp(weights, -(layer // every))
                    tensors[f"blk.{layer}.{name}.weight"] = (divided, "F32")
        return altered_gguf(source, keys={"rwkv6.rescale_every_n_layers": every}, tensors=tensors)

    return rescale


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint64(key, value) if value >> 32 else writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, np.ndarray):
        writer.add_array(key, value.tolist())
    else:
        writer.add_array(key, value)
