"""A model converts to the same bytes whoever named its tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rwkv_edge.converters.checkpoints import read_directory
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.model_source import open_model_checkpoint, open_model_source
from rwkv_edge.converters.names import NAMINGS, naming_of
from rwkv_edge.errors import FormatError, UnsupportedModelError
from tests.converters.foreign_names import (
    TURNED,
    Tensors,
    fla_6,
    fla_7,
    huggingface,
    huggingface_7,
    web_rwkv,
    write_tiny,
)

Foreign = Callable[[Tensors], Tensors]
CASES: dict[str, tuple[str, Foreign, str]] = {
    "4 of transformers": ("4", huggingface, "an RWKV-4 of Hugging Face's transformers"),
    "5.0 of Hugging Face": ("5.0", huggingface, "an RWKV-5 in Hugging Face's names"),
    "5.1 of Hugging Face": ("5.1", huggingface, "an RWKV-5 in Hugging Face's names"),
    "5.2 of Hugging Face": ("5.2", huggingface, "an RWKV-5 in Hugging Face's names"),
    "6 of Hugging Face": ("6", huggingface, "an RWKV-6 in Hugging Face's names"),
    "6 of fla": ("6", fla_6, "an RWKV-6 of flash-linear-attention"),
    "7 of fla": ("7", fla_7, "an RWKV-7 of flash-linear-attention"),
    "7 of fla's first release": (
        "7", lambda own: fla_7(own, fused=True), "an RWKV-7 of flash-linear-attention"
    ),
    "7 of Hugging Face": ("7", huggingface_7, "an RWKV-7 in Hugging Face's names"),
    "4 of web-rwkv": ("4", web_rwkv, ""),
    "5.2 of web-rwkv": ("5.2", web_rwkv, "an RWKV-5 of web-rwkv"),
    "6 of web-rwkv": ("6", web_rwkv, "an RWKV-6 of web-rwkv"),
    "6 of web-rwkv, half turned": (
        "6", lambda own: web_rwkv(own, TURNED[2:]), "an RWKV-6 of web-rwkv"
    ),
    "7 of web-rwkv": ("7", web_rwkv, "an RWKV-7 of web-rwkv"),
    "7 of web-rwkv, not turned": ("7", lambda own: web_rwkv(own, TURNED), ""),
}  # fmt: skip


def both(tmp_path: Path, version: str, foreign: Foreign, dtype: str) -> tuple[Path, Path]:
    """The same numbers as a `.pth` of RWKV-LM, and as another project's safetensors file."""
    (tmp_path / "own").mkdir()
    (tmp_path / "foreign").mkdir()
    pth, other = tmp_path / "own" / "m.pth", tmp_path / "foreign" / "m.safetensors"
    save_file(foreign(write_tiny(pth, version, dtype)), other)
    return pth, other


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("version", "foreign", "title"), CASES.values(), ids=CASES)
def test_the_gguf_is_the_one_of_rwkv_lms_own_file(
    tmp_path: Path, version: str, foreign: Foreign, title: str, dtype: str
) -> None:
    pth, other = both(tmp_path, version, foreign, dtype)
    for weight_type in ("F32", "Q4_0"):
        wanted = convert(pth, tmp_path / "own.gguf", weight_type).path.read_bytes()
        assert convert(other, tmp_path / "foreign.gguf", weight_type).path.read_bytes() == wanted
    with open_model_source(other) as model:
        assert model.checkpoint.directory.naming == title
        assert model.hyperparameters.version == version


@pytest.mark.parametrize(("version", "foreign", "title"), CASES.values(), ids=CASES)
def test_one_naming_alone_knows_a_file(
    tmp_path: Path, version: str, foreign: Foreign, title: str
) -> None:
    _, other = both(tmp_path, version, foreign, "float16")
    directory = read_directory(other)
    found = [naming.title for naming in NAMINGS if naming.recognises_directory(directory)]
    assert found == ([title] if title else [])


@pytest.mark.parametrize("version", ["4", "5.0", "5.1", "5.2", "6", "7", "7a"])
def test_rwkv_lms_own_names_stay(tmp_path: Path, version: str) -> None:
    write_tiny(tmp_path / "m.pth", version)
    assert naming_of(read_directory(tmp_path / "m.pth")) is None


def saved(tmp_path: Path, tensors: Tensors) -> Path:
    path = tmp_path / "changed.safetensors"
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    return path


def changed(tensors: Tensors, **changes: Any) -> Tensors:
    """Other tensors in place of some, None for none; `__` stands for a dot."""
    found = tensors | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@pytest.mark.parametrize(
    ("version", "foreign", "changes", "message"),
    [
        ("7", fla_7, {"model__layers__1__attn__q_proj__weight": np.zeros((2, 2))},
         r"layers\.1\.attn\.q_proj\.weight: no such tensor in an RWKV-7 of flash"),
        ("7", fla_7, {"model__layers__1__attn__r_proj__lora_A": np.zeros((2, 2))},
         "adapter must be merged"),
        ("7", fla_7, {"model__layers__1__attn__r_proj__weight": None},
         r"blocks\.1\.att\.receptance\.weight is missing"),
        ("7", fla_7, {"model__embeddings__weight": None}, r"embeddings\.weight is missing"),
        ("7", fla_7, {"model__embeddings__weight": np.zeros(5)}, r"is \[5\]; wanted a matrix"),
        ("7", fla_7, {"model__layers__0__attn__w_lora__lora__0__weight": np.zeros(4)},
         r"w_lora\.lora\.0\.weight is \[4\]; wanted a matrix"),
        ("7", fla_7, {"model__layers__0__attn__x_x": np.zeros((6, 128))}, "are both blocks.0"),
        ("7", fla_7, {"model__layers__0__attn__x_x": np.zeros((5, 128))}, "wanted 6 rows of 128"),
        ("6", fla_6, {"model__layers__0__attn__x_proj__0__linear__weight": np.zeros((7, 128))},
         "multiple of 5 rows"),
        ("6", fla_6, {"model__layers__0__attn__x_proj__2__weight": np.zeros((128, 4))},
         "multiple of 5 columns"),
        ("6", fla_6, {"model__layers__0__attn__x_proj__2__weight": np.zeros((0, 160))},
         "time_maa_w2 is .*wanted"),
        ("6", huggingface, {"rwkv__blocks__0__attention__time_mix_key": np.zeros(128)},
         "no such tensor in an RWKV-6 in Hugging Face's names"),
        ("6", web_rwkv, {"blocks__0__att__time_mix_w1": np.zeros((5, 5))}, "time_maa_w1 is"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence_that_names_it(
    tmp_path: Path, version: str, foreign: Foreign, changes: dict[str, Any], message: str
) -> None:
    tensors = changed(foreign(write_tiny(tmp_path / "m.pth", version)), **changes)
    with pytest.raises(FormatError, match=message) as caught:
        open_model_source(saved(tmp_path, tensors))
    assert str(caught.value).isprintable()
    assert "changed.safetensors" in str(caught.value)


def test_names_that_nobody_knows_say_which_are_known(tmp_path: Path) -> None:
    path = saved(tmp_path, {"transformer.h.0.attn.weight": np.zeros((2, 2))})
    with pytest.raises(UnsupportedModelError, match=r"h\.0\.attn.*Hugging Face, flash-linear"):
        open_model_source(path)


def test_the_width_is_not_taken_for_a_rank_where_both_are_one(tmp_path: Path) -> None:
    """A rank as large as the width: what the other matrices say decides."""
    pth = tmp_path / "m.pth"
    own = write_tiny(pth, "7", ranks=(128, 64, 40, 96))
    path = saved(tmp_path, web_rwkv(own))
    with open_model_checkpoint(path) as checkpoint:
        for name in ("blocks.0.att.w1", "blocks.1.att.w2", "blocks.0.att.a1"):
            np.testing.assert_array_equal(checkpoint.read(name), own[name])
