"""The checkpoint that ships with the package; MODEL_CARD.md says what it was trained on."""

from importlib.resources import files
from pathlib import Path


def checkpoint_path() -> Path:
    """The `.pth`, as training wrote it; its vocabulary lies beside it."""
    return _file("rwkv7-builtin.pth")


def heldout_path() -> Path:
    """Text like that it was trained on, none of which it has seen."""
    return _file("heldout.txt")


def _file(name: str) -> Path:
    # Installed packages are folders: what numba caches could not come out of a zip either.
    return Path(str(files(__name__).joinpath(name)))
