"""The built-in model through `rwkv_edge.compat`, converted once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwkv_edge.builtin import checkpoint_path
from rwkv_edge.compat import RWKV


@pytest.fixture(scope="session")
def builtin_pth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built-in checkpoint: what is made of it must not land in the package."""
    folder = tmp_path_factory.mktemp("builtin")
    source = checkpoint_path()
    shutil.copy(source, folder / "builtin.pth")
    shutil.copy(source.with_name(source.stem + ".vocab.txt"), folder / "builtin.vocab.txt")
    return folder / "builtin.pth"


@pytest.fixture(scope="session")
def builtin_vocabulary(builtin_pth: Path) -> Path:
    return builtin_pth.with_suffix(".vocab.txt")


@pytest.fixture(scope="session")
def builtin(builtin_pth: Path) -> Iterator[RWKV]:
    """Shared by tests that only run it: never closed by one of them."""
    model = RWKV(str(builtin_pth), "cpu fp32", verbose=False)
    yield model
    model.close()
