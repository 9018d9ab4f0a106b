"""Every weight type that is written: llama.cpp loads it, and gives the numbers that we give.

llama.cpp rounds activations to 8 bits before it multiplies them by quantized weights (numba does
the same for the formats that it has), which the reference engine does not: that is what is left
between them. Of the built-in model it is a divergence of 6e-5 to 1.1e-4 nats per token, whatever
the type; of the random models 1e-4 to 4e-4. What rounding the weights does to the predictions is
9e-5 (Q8_0) to 0.04 (Q2_K) for the built-in model, and 1.5e-4 to 0.26 for the random ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_edge import Model
from rwkv_edge.arch import Role
from rwkv_edge.builtin import checkpoint_path, heldout_path
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.weight_types import WEIGHT_TYPES
from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.model_file import ModelFile

pytest.importorskip("llama_cpp")

from tests.converters.test_llama_cpp import Loaded, mean_divergence

Logits = npt.NDArray[np.float32]
MODELS = ("rwkv6", "rwkv7", "builtin")
# In nats per token, of the reference engine's predictions.
BOUND = 1e-3
# Formats that round nothing of the activations in llama.cpp, or only to 11 or 8 bits as floats.
FLOATS = {"F32": 1e-9, "F16": 1e-5, "BF16": 1e-3}


def random_checkpoint(path: Path, version: str) -> Path:
    """All its rows fit a super-block of 256. The head is halved: logits of random weights spread
    more than those of trained ones of this size, which makes all differences larger.
    """
    hp = synthetic_hyperparameters(2, 256, version=version, n_ffn=1024, n_vocab=256)
    write_synthetic(path.with_suffix(".full.pth"), hp, dtype="float32")
    with open_checkpoint(path.with_suffix(".full.pth")) as checkpoint, PthWriter(path) as writer:
        for name in checkpoint.names():
            data = checkpoint.read(name) * np.float32(0.5 if name == "head.weight" else 1)
            writer.add(name, "float32", checkpoint.shape(name), [data.tobytes()])
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A model in a weight type, made once."""
    folder = tmp_path_factory.mktemp("w")

    def make(model: str, weight_type: str) -> Path:
        source = checkpoint_path() if model == "builtin" else folder / f"{model}.pth"
        if not source.exists():
            random_checkpoint(source, model.removeprefix("rwkv"))
        path = folder / f"{model}-{weight_type}.gguf"
        if not path.exists():
            convert(source, path, weight_type)
        return path

    return make


# One of those that store everything alike.
TYPES = {(row.most, row.head): name for name, row in WEIGHT_TYPES.items()}.values()


@pytest.fixture(scope="module")
def predictions() -> Callable[[Path, str], Logits]:
    """Logits after every token of a text, by file and engine; each is computed once."""
    found: dict[tuple[Path, str], Logits] = {}

    def predict(path: Path, engine: str) -> Logits:
        if (path, engine) not in found:
            with Model.load(path, "reference") as model:
                text = heldout_path().read_text(encoding="utf-8")[:400]
                tokens = model.tokenizer.encode(text)[:60]
            if engine == "llama.cpp":
                loaded = Loaded(path)
                found[path, engine] = loaded.logits(tokens)
                loaded.close()
            else:
                with Model.load(path, engine) as model:
                    found[path, engine] = model.forward(tokens, all_logits=True)[0]
        return found[path, engine]

    return predict


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weight_type", TYPES)
def test_llama_cpp_gives_the_predictions_of_the_reference_engine(
    model: str, weight_type: str, converted: Any, predictions: Any
) -> None:
    path = converted(model, weight_type)
    ours = predictions(path, "reference")
    divergence = mean_divergence(ours, predictions(path, "llama.cpp"))
    print(
        "KL",
        model,
        weight_type,
        divergence,
        mean_divergence(predictions(converted(model, "F32"), "reference"), ours),
    )
    assert divergence < FLOATS.get(weight_type, BOUND)
    if weight_type not in FLOATS:
        # A file that was read as something else would be as far away as another type's.
        exact = predictions(converted(model, "F32"), "reference")
        assert divergence < mean_divergence(exact, ours)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weight_type", TYPES)
def test_numba_gives_the_predictions_of_both(
    model: str, weight_type: str, converted: Any, predictions: Any
) -> None:
    path = converted(model, weight_type)
    try:
        ours = predictions(path, "numba")
    except UnsupportedModelError as error:
        pytest.skip(str(error))
    assert mean_divergence(predictions(path, "reference"), ours) < BOUND
    assert mean_divergence(ours, predictions(path, "llama.cpp")) < BOUND


@pytest.mark.parametrize("weight_type", TYPES)
def test_the_random_models_hold_each_type_without_fall_backs(
    weight_type: str, converted: Any
) -> None:
    row = WEIGHT_TYPES[weight_type]
    for model in ("rwkv6", "rwkv7"):
        file = ModelFile(converted(model, weight_type))
        matrices = {
            spec.name: file.tensor(spec.name).quant_format
            for spec in file.architecture.tensors(file.hyperparameters)
            if spec.role is Role.MATRIX
        }
        file.close()
        assert matrices.pop("output.weight") is row.head
        assert set(matrices.values()) == {row.most}


def test_types_that_store_everything_alike_have_the_same_weights(converted: Any) -> None:
    for name, row in WEIGHT_TYPES.items():
        twin = next(t for t in TYPES if WEIGHT_TYPES[t].most is row.most)
        if twin != name:
            files = [ModelFile(converted("rwkv7", each)) for each in (name, twin)]
            first, second = (file.gguf.tensors for file in files)
            assert all((first[key].raw == second[key].raw).all() for key in first)
            for file in files:
                file.close()
