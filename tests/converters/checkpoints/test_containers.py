"""Every container, version and kind of number: the GGUF is the one of the `.pth`."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.converters.checkpoints import CONTAINERS, container_of, open_checkpoint
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import write_synthetic
from tests.converters.foreign_names import tiny_model

VERSIONS = ["4", "5.0", "5.1", "5.2", "6", "7", "7a"]
DTYPES = ["float32", "float16", "bfloat16"]
State = dict[str, Any]


def save_zip(torch: Any, state: State, folder: Path) -> Path:
    torch.save(state, folder / "m.pth")
    return folder / "m.pth"


def save_legacy(torch: Any, state: State, folder: Path) -> Path:
    torch.save(state, folder / "m.pth", _use_new_zipfile_serialization=False)
    return folder / "m.pth"


def save_safetensors(torch: Any, state: State, folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(state, folder / "m.st", metadata={"format": "pt"})
    return folder / "m.st"


def save_folder(torch: Any, state: State, folder: Path) -> Path:
    (folder / "m").mkdir()
    save_safetensors(torch, state, folder).rename(folder / "m" / "model.safetensors")
    return folder / "m"


def save_torch_folder(torch: Any, state: State, folder: Path) -> Path:
    (folder / "m").mkdir()
    save_zip(torch, state, folder).rename(folder / "m" / "pytorch_model.bin")
    return folder / "m"


# rwkv.cpp and GGUF files hold other tensors, and have tests of their own.
SAVERS: dict[str, tuple[str, Callable[[Any, State, Path], Path]]] = {
    "torch.save": ("pth", save_zip),
    "torch.save before 1.6": ("legacy-pth", save_legacy),
    "safetensors": ("safetensors", save_safetensors),
    "a folder of safetensors": ("folder", save_folder),
    "a folder of torch.save": ("folder", save_torch_folder),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_gguf_does_not_depend_on_the_container(
    tmp_path: Path, version: str, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    source = tmp_path / "m.pth"
    write_synthetic(source, tiny_model(version), dtype=dtype)
    wanted = convert(source, tmp_path / "wanted.gguf", "Q4_0").path.read_bytes()
    with open_checkpoint(source) as checkpoint:
        state: State = OrderedDict(
            (name, torch.from_numpy(checkpoint.read(name)).to(getattr(torch, dtype)))
            for name in checkpoint.names()
        )
    for name, save in SAVERS.values():
        folder = tmp_path / save.__name__
        folder.mkdir()
        path = save(torch, state, folder)
        assert container_of(path).name == name
        with open_checkpoint(path) as checkpoint:
            assert {checkpoint.dtype(key) for key in checkpoint.names()} == {dtype}
        found = convert(path, tmp_path / "found.gguf", "Q4_0").path
        assert found.read_bytes() == wanted, save.__name__


def test_containers_have_names_and_titles_of_their_own() -> None:
    for part in ("name", "title"):
        found = [getattr(container, part) for container in CONTAINERS]
        assert len(set(found)) == len(found)
        assert all(text.isprintable() and text for text in found)


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {"emb.weight": torch.ones(2, 2)}
    for name, save in SAVERS.values():
        if name == "folder":
            continue
        folder = tmp_path / name
        folder.mkdir()
        path = save(torch, state, folder)
        for ending in (".gguf", ".bin", ".PTH", ".txt", ""):
            path = path.rename(path.with_name(f"x{ending}"))
            assert container_of(path).name == name
