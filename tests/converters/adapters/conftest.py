"""A base to adapt, and a folder to write adapters into."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest

from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.converters.adapters.adapter_files import Save, write_pth


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write tensors to a `.pth` of this name."""

    def write(name: str, tensors: Mapping[str, npt.NDArray[Any]]) -> Path:
        return write_pth(tmp_path / name, tensors)

    return write


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Three layers of RWKV-7; the width of the channel mix is no power of two."""
    hp = synthetic_hyperparameters(3, 128, n_ffn=320, n_vocab=256, ranks=(32, 64, 40, 96))
    write_synthetic(tmp_path / "base.pth", hp, dtype="bfloat16")
    return tmp_path / "base.pth"
