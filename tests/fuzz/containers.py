"""The other containers of weights, adapters and tuned states: their files, and what opens them."""

import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy

from rwkv_edge import RwkvEdgeError
from rwkv_edge.apps.file_info import describe_file
from rwkv_edge.converters.adapters import Adapter, TunedState
from rwkv_edge.converters.checkpoints import Checkpoint, open_checkpoint
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.model_source import open_model_source
from tests.converters.adapters.adapter_files import lora_of, matrices_of, numbers, write_pth
from tests.converters.checkpoints.rwkv_cpp_writer import write_rwkv_cpp
from tests.converters.checkpoints.tar_writer import FOUR_BYTES, oldest
from tests.converters.foreign_names import (
    Tensors,
    fla_6,
    fla_7,
    huggingface,
    huggingface_7,
    rwkv_cpp,
    web_rwkv,
)

# What a LoRA of the corpus is merged with.
ALPHA = 8.0
RANK = 4
INDEX = "model.safetensors.index.json"
SHARDS = ("model-1.safetensors", "model-2.safetensors")


def source(folder: Path, version: str) -> Path:
    return folder / "sources" / f"rwkv{version}.pth"


def tensors_of(folder: Path, version: str) -> Tensors:
    with open_checkpoint(source(folder, version)) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.names()}


def rwkv_cpp_files(to: Path, folder: Path) -> None:
    for version in ("4", "5.2", "6", "7"):
        own = rwkv_cpp(tensors_of(folder, version), version)
        write_rwkv_cpp(to / f"rwkv{version}.bin", own)
    for kind in ("FP16", "Q5_1", "Q8_0"):
        write_rwkv_cpp(to / f"rwkv7-{kind}.bin", rwkv_cpp(tensors_of(folder, "7"), "7"), kind)


def tar_files(to: Path, folder: Path) -> None:
    del folder
    (to / "one.pth").write_bytes(oldest([("emb.weight", "8", "7", 0, (2, 2), (2, 1))]))
    storages = (("7", "FloatStorage", FOUR_BYTES), ("9", "HalfStorage", FOUR_BYTES))
    tensors = [("a", "8", "7", 0, (4,), (1,)), ("b", "10", "9", 2, (2, 3), (3, 1))]
    (to / "two.pth").write_bytes(oldest(tensors, storages=storages, views=()))


def foreign_names(to: Path, folder: Path) -> None:
    six, seven = tensors_of(folder, "6"), tensors_of(folder, "7")
    files = {
        "huggingface4": huggingface(tensors_of(folder, "4")),
        "huggingface6": huggingface(six),
        "huggingface7": huggingface_7(seven),
        "fla6": fla_6(six),
        "fla7": fla_7(seven),
        "fla7-fused": fla_7(seven, fused=True),
        "web-rwkv7": web_rwkv(seven),
    }
    for name, tensors in files.items():
        whole = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
        (to / f"{name}.safetensors").write_bytes(safetensors.numpy.save(whole))


def indices(to: Path, folder: Path) -> None:
    """The index of a folder, whose shards lie in `sources`."""
    tensors = list(huggingface_7(tensors_of(folder, "7")).items())
    weight_map = {}
    for shard, part in zip(SHARDS, (tensors[::2], tensors[1::2]), strict=True):
        held = {name: np.ascontiguousarray(array) for name, array in part}
        (folder / "sources" / shard).write_bytes(safetensors.numpy.save(held))
        weight_map |= dict.fromkeys(held, shard)
    lines = ",\n".join(f'"{name}": "{shard}"' for name, shard in weight_map.items())
    (to / "index.json").write_text(f'{{"metadata": {{}}, "weight_map": {{{lines}}}}}')


def plain_models(to: Path, folder: Path) -> None:
    """GGUFs that can be converted again."""
    for version, weight_type in (("4", "F32"), ("6", "F16"), ("7", "BF16"), ("7a", "F32")):
        convert(source(folder, version), to / f"rwkv{version}.gguf", weight_type)


def adapters(to: Path, folder: Path) -> None:
    """Of each kind, for the RWKV-7 of the corpus."""
    base = source(folder, "7")
    write_pth(to / "lora.pth", lora_of(base, RANK, ".att."))
    write_pth(
        to / "replaced.pth", {"ln_out.weight": numbers(1, 32), "head.weight": numbers(2, 256, 32)}
    )
    shapes = matrices_of(base, ".ffn.").items()
    bone = {f"{name}.disha": numbers(3, RANK, n_out) for name, (n_out, _) in shapes}
    write_pth(to / "bone.pth", bone)
    bat = {f"{name}.disha": numbers(4, n_in // RANK, RANK, RANK) for name, (_, n_in) in shapes}
    write_pth(to / "bat.pth", bat)
    write_pth(to / "state.pth", tuned_state())


def tuned_state() -> Tensors:
    return {f"blocks.{i}.att.time_state": numbers(5 + i, 2, 16, 16) for i in range(2)}


def tuned_models(to: Path, folder: Path) -> None:
    """A GGUF that begins with a tuned state."""
    state = write_pth(folder / "sources" / "state.pth", tuned_state())
    convert(source(folder, "7"), to / "tuned.gguf", "F32", adapters=[TunedState(state)])


def open_source(path: Path, corpus: Path) -> None:
    """A model to convert: all that its tensors are made of is read."""
    del corpus
    describe_file(path)
    with open_model_source(path) as model:
        read_all(model.checkpoint)


def open_tensors(path: Path, corpus: Path) -> None:
    """Tensors that are no model."""
    del corpus
    describe_file(path)
    with open_checkpoint(path) as checkpoint:
        read_all(checkpoint)


def open_folder(path: Path, corpus: Path) -> None:
    """The damaged file is the index of a folder."""
    folder = path.parent / "folder"
    folder.mkdir(exist_ok=True)
    for shard in SHARDS:
        if not (folder / shard).exists():
            shutil.copy(corpus / "sources" / shard, folder / shard)
    (folder / INDEX).write_bytes(path.read_bytes())
    open_source(folder, corpus)


def open_adapter(path: Path, corpus: Path) -> None:
    """Merged as an adapter, or else as a tuned state."""
    describe_file(path)
    base = source(corpus, "7")
    try:
        with open_model_source(base, [Adapter(path, alpha=ALPHA)]) as model:
            read_all(model.checkpoint)
    except RwkvEdgeError:
        with open_model_source(base, [TunedState(path)]) as model:
            read_all(model.checkpoint)


def read_all(checkpoint: Checkpoint) -> None:
    for name in checkpoint.names():
        assert checkpoint.read(name).shape == checkpoint.shape(name)


MAKERS = {
    "rwkv.cpp": rwkv_cpp_files,
    "tar": tar_files,
    "foreign-names": foreign_names,
    "index": indices,
    "plain-model": plain_models,
    "adapter": adapters,
    "tuned-model": tuned_models,
}
