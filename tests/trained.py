"""Trained checkpoints, which the repository does not carry; tests that want one skip without it."""

import os
from pathlib import Path

import pytest

# Where they lie: a folder with tiny-rwkv-4v0-660K.pth and so on, and .npz files of logits beside.
FOLDER_VARIABLE = "RWKV_EDGE_FIXTURES"
BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


def trained_checkpoint(name: str) -> Path:
    """The path of a trained checkpoint; skips the test where it cannot be reached."""
    folder = Path(os.environ.get(FOLDER_VARIABLE) or BESIDE_THE_REPOSITORY)
    path = folder / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {folder}; {FOLDER_VARIABLE} names the folder that has it")
    return path
