"""Checkpoints to convert: trained (where they lie beside the repository), random, and forged."""

import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.trained import trained_checkpoint


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dull name: pytest's own holds the test's, which a `match` would find."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def trained_rwkv7() -> Path:
    return trained_checkpoint("tiny-rwkv-7v0-834K.pth")


@pytest.fixture
def trained_rwkv4() -> Path:
    return trained_checkpoint("tiny-rwkv-4v0-660K.pth")


@pytest.fixture
def tiny() -> Rwkv7Hyperparameters:
    """Every rank and width differs, so that nothing fits in another's place."""
    return synthetic_hyperparameters(3, 128, n_ffn=320, n_vocab=256, ranks=(32, 64, 40, 96))


@pytest.fixture
def tiny_pth(tmp_path: Path, tiny: Rwkv7Hyperparameters) -> Path:
    path = tmp_path / "tiny.pth"
    write_synthetic(path, tiny)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here (that takes root on Linux)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def forge_pth(tmp_path: Path) -> Callable[..., Path]:
    """A zip file as torch.save lays it out, with any pickle and any storages."""

    def forge(
        pickled: bytes,
        storages: Mapping[str, bytes] | None = None,
        *,
        compression: int = zipfile.ZIP_STORED,
        members: Mapping[str, bytes] | None = None,
        name: str = "forged.pth",
    ) -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("forged/data.pkl", pickled)
            for key, data in (storages or {}).items():
                archive.writestr(f"forged/data/{key}", data)
            for member, data in (members or {}).items():
                archive.writestr(f"forged/{member}", data)
        return path

    return forge


@pytest.fixture
def save_with_torch(tmp_path: Path) -> Callable[..., Path]:
    torch = pytest.importorskip("torch")

    def save(value: Any, name: str = "saved.pth", **options: Any) -> Path:
        path = tmp_path / name
        torch.save(value, path, **options)
        return path

    return save
