"""Conversion takes little memory, whatever the weights come in: a few tensors, never all."""

import io
import pickle
import struct
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rwkv_edge.converters.checkpoints import CONTAINERS, container_of, open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import integer, named, text
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.model_source import open_model_source
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.converters.checkpoints.rwkv_cpp_writer import write_rwkv_cpp
from tests.converters.checkpoints.test_folder import shard
from tests.converters.foreign_names import Tensors, fla_7, rwkv_cpp

MIB = 1 << 20
# Eight layers of 12 MiB; the largest tensor has 4.
SHAPE = {"n_layer": 8, "n_embd": 512, "n_ffn": 2048, "n_vocab": 256}
# Of rows on their way, in two buffers of 8 MiB and what they become, and of one tensor gathered.
MOST_BYTES = 32 * MIB
# Of names and places alone.
MOST_BYTES_TO_OPEN = 4 * MIB


@pytest.fixture(scope="module")
def pth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("memory") / "m.pth"
    write_synthetic(path, synthetic_hyperparameters(**SHAPE), dtype="float32")
    # The encoders are compiled now, so that this does not count.
    convert(path, path.with_name("first.gguf"), "Q4_0", threads=1)
    path.with_name("first.gguf").unlink()
    yield path
    path.unlink()


def tensors_of(path: Path) -> Tensors:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.names()}


def as_it_is(pth: Path, folder: Path) -> Path:
    return pth


def as_safetensors(pth: Path, folder: Path) -> Path:
    save_file(tensors_of(pth), folder / "m.safetensors")
    return folder / "m.safetensors"


def as_folder(pth: Path, folder: Path) -> Path:
    """In the names of fla, so that matrices lie turned in the file."""
    shard(folder, fla_7(tensors_of(pth)), 3)
    return folder


def as_gguf(pth: Path, folder: Path) -> Path:
    return convert(pth, folder / "f32.gguf", "F32").path


def as_rwkv_cpp(pth: Path, folder: Path) -> Path:
    write_rwkv_cpp(folder / "m.bin", rwkv_cpp(tensors_of(pth), "7"))
    return folder / "m.bin"


def as_quantized_rwkv_cpp(pth: Path, folder: Path) -> Path:
    write_rwkv_cpp(folder / "m.bin", rwkv_cpp(tensors_of(pth), "7"), "Q8_0")
    return folder / "m.bin"


def as_legacy_pth(pth: Path, folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors_of(pth).items()}
    torch.save(state, folder / "m.pth", _use_new_zipfile_serialization=False)
    return folder / "m.pth"


def as_tar_pth(pth: Path, folder: Path) -> Path:
    tensors = tensors_of(pth)
    stored, listed = [pickle.dumps(len(tensors), 2)], [pickle.dumps(len(tensors), 2)]
    entries = b""
    for i, (name, tensor) in enumerate(tensors.items()):
        head = b"\x80\x02" + integer(i) + text("cpu") + named("torch", "FloatStorage") + b"\x87."
        stored += [head, struct.pack("<q", tensor.size), tensor.tobytes()]
        strides = [stride // 4 for stride in tensor.strides]
        numbers = struct.pack(f"<{2 * tensor.ndim + 1}q", *tensor.shape, *strides, 0)
        kind = named("torch", "FloatTensor")
        head = b"\x80\x02" + integer(1000 + i) + integer(i) + kind + b"\x87."
        listed += [head, struct.pack("<ii", tensor.ndim, 0), numbers]
        entries += text(name) + text(str(1000 + i)) + b"Q"
    stored.append(pickle.dumps([], 2))
    with tarfile.open(folder / "m.pth", "w:", format=tarfile.PAX_FORMAT) as archive:
        for member, parts in (
            ("storages", stored),
            ("tensors", listed),
            ("pickle", [b"\x80\x02}(" + entries + b"u."]),
        ):
            data = b"".join(parts)
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / "m.pth"


MAKERS: dict[str, tuple[str, Callable[[Path, Path], Path]]] = {
    "pth": ("pth", as_it_is),
    "safetensors": ("safetensors", as_safetensors),
    "folder": ("folder", as_folder),
    "gguf": ("gguf", as_gguf),
    "rwkv.cpp": ("rwkv.cpp", as_rwkv_cpp),
    "quantized rwkv.cpp": ("rwkv.cpp", as_quantized_rwkv_cpp),
    "legacy pth": ("legacy-pth", as_legacy_pth),
    "tar pth": ("tar-pth", as_tar_pth),
}


def test_every_container_is_measured() -> None:
    assert {name for name, _ in MAKERS.values()} == {container.name for container in CONTAINERS}


def peak_of(work: Callable[[], Any]) -> int:
    """The most bytes that were allocated at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("container", "make"), MAKERS.values(), ids=MAKERS)
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, pth: Path, container: str, make: Callable[[Path, Path], Path]
) -> None:
    path = make(pth, tmp_path)
    assert container_of(path).name == container
    with open_model_source(path) as model:
        n_bytes = sum(file.stat().st_size for file in model.files)
    is_quantized = make is as_quantized_rwkv_cpp
    assert n_bytes > (25 if is_quantized else 95) * MIB

    def open_and_close() -> None:
        with open_model_source(path):
            pass

    assert peak_of(open_and_close) < MOST_BYTES_TO_OPEN
    out = tmp_path / "out.gguf"
    assert peak_of(lambda: convert(path, out, "Q4_0", threads=1)) < MOST_BYTES
    for made in tmp_path.iterdir():
        made.unlink()


def test_the_measure_sees_what_is_read(pth: Path) -> None:
    with open_checkpoint(pth) as checkpoint:
        name = "blocks.0.ffn.key.weight"
        assert peak_of(lambda: checkpoint.read(name)) >= np.prod(checkpoint.shape(name)) * 4
