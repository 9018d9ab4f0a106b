"""A Hugging Face folder: shards, their index, its config.json; nothing outside of it is read."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rwkv_edge.converters.checkpoints import container_of, open_checkpoint
from rwkv_edge.converters.checkpoints.folder import MAX_JSON_BYTES
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.model_source import open_model_checkpoint, open_model_source
from rwkv_edge.errors import FormatError, InputError
from tests.converters.foreign_names import Tensors, fla_7, huggingface, write_tiny

INDEX = "model.safetensors.index.json"


def write_index(folder: Path, weight_map: Any, name: str = INDEX) -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def shard(folder: Path, tensors: Tensors, n_shards: int = 3) -> dict[str, str]:
    """The tensors in so many files of equal counts, and their index."""
    weight_map = {name: f"model-{i % n_shards}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file(
            {name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file
        )
    write_index(folder, weight_map)
    return weight_map


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "rwkv7-0.1B"
    path.mkdir()
    return path


@pytest.fixture
def sharded(folder: Path) -> dict[str, str]:
    """Two tensors in each of two shards."""
    tensors = {name: np.full((2, 2), i, np.float32) for i, name in enumerate("abcd")}
    return shard(folder, tensors, 2)


def test_a_folder_of_one_file_of_shards_and_of_torch_files_give_the_same_gguf(
    tmp_path: Path, folder: Path
) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "rwkv7-0.1B.pth").touch()
    pth = tmp_path / "rwkv7-0.1B.pth"
    tensors = fla_7(write_tiny(pth, "7"))
    wanted = convert(pth, tmp_path / "wanted.gguf", "Q4_0").path.read_bytes()
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv7"}))

    def converted() -> bytes:
        assert container_of(folder).name == "folder"
        return convert(folder, tmp_path / "m.gguf", "Q4_0").path.read_bytes()

    save_file(tensors, folder / "model.safetensors")
    assert converted() == wanted
    (folder / "model.safetensors").unlink()
    weight_map = shard(folder, tensors)
    assert converted() == wanted
    with open_checkpoint(folder) as checkpoint:
        assert len(checkpoint.directory.files) == 3
    (folder / INDEX).unlink()
    as_torch = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    for legacy in (False, True):
        options = {"_use_new_zipfile_serialization": not legacy}
        torch.save(as_torch, folder / "pytorch_model.bin", **options)
        assert converted() == wanted
        (folder / "pytorch_model.bin").unlink()
    of_torch = {name: file.replace("safetensors", "bin") for name, file in weight_map.items()}
    for file in set(of_torch.values()):
        part = {name: as_torch[name] for name in as_torch if of_torch[name] == file}
        torch.save(part, folder / file)
    write_index(folder, of_torch, "pytorch_model.bin.index.json")
    assert converted() == wanted


def test_more_shards_than_files_are_kept_open_are_read(folder: Path) -> None:
    tensors = {f"t{i}": np.full((3, 2), i, np.float32) for i in range(30)}
    shard(folder, tensors, 30)
    with open_checkpoint(folder) as checkpoint:
        for _ in range(2):
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(checkpoint.read(name), tensor)


def test_the_tokenizer_in_the_folder_is_found(tmp_path: Path, folder: Path) -> None:
    tensors = huggingface(write_tiny(tmp_path / "m.pth", "4", n_vocab=300))
    save_file(tensors, folder / "model.safetensors")
    words = "".join(f"{i} {bytes([i - 1])!r} 1\n" for i in range(1, 257))
    (folder / "model.vocab.txt").write_text(words)
    summary = convert(folder, tmp_path / "m.gguf")
    assert summary.vocabulary == str(folder / "model.vocab.txt")


@pytest.mark.parametrize("key", ["head_dim", "head_size"])
def test_the_config_says_what_a_flat_r_k_does_not(tmp_path: Path, folder: Path, key: str) -> None:
    tensors = fla_7(write_tiny(tmp_path / "m.pth", "7", head_size=32))
    flat = {n: t.reshape(-1) if n.endswith(".r_k") else t for n, t in tensors.items()}
    save_file(flat, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({key: 32}))
    with open_model_source(folder) as model:
        assert model.hyperparameters.head_size == 32
    for nonsense in (0, -1, 33, 1 << 70, "32", None, [32]):
        (folder / "config.json").write_text(json.dumps({key: nonsense}))
        with open_model_source(folder) as model:
            assert model.hyperparameters.head_size == 64


def test_a_head_that_is_the_embedding_is_written_as_such(tmp_path: Path, folder: Path) -> None:
    own = write_tiny(tmp_path / "m.pth", "7")
    tensors = fla_7(own)
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FormatError, match=r"head\.weight is missing"):
        open_model_source(folder)
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    with open_model_checkpoint(folder) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("head.weight"), own["emb.weight"])


def test_a_missing_shard_is_named(folder: Path, sharded: dict[str, str]) -> None:
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model-1\.safetensors is missing, which model\.safe"):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards_is_refused(folder: Path, sharded: dict[str, str]) -> None:
    save_file({"a": np.zeros(2, np.float32)}, folder / "model-1.safetensors")
    with pytest.raises(FormatError, match=r"a is in model-0\.safetensors and in model-1\."):
        open_checkpoint(folder)


def test_a_tensor_that_the_index_alone_has_is_refused(
    folder: Path, sharded: dict[str, str]
) -> None:
    write_index(folder, sharded | {"e": "model-1.safetensors"})
    with pytest.raises(FormatError, match=r"e is not in model-1\.safetensors, where"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "sub/x.safetensors", "/etc/passwd", "..", ".", "", "C:\\x", "C:x",
     "\\\\h\\x", "..\\x.safetensors", "a\nb", "x\0.safetensors", "/", "x/", "x:y"],
)  # fmt: skip
def test_an_index_that_points_elsewhere_is_refused(
    folder: Path, sharded: dict[str, str], name: str
) -> None:
    save_file({"e": np.zeros(2, np.float32)}, folder.parent / "x.safetensors")
    write_index(folder, sharded | {"e": name})
    with pytest.raises(FormatError, match="not one in the folder") as caught:
        open_checkpoint(folder)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_out_of_the_folder_is_refused_but_for_hugging_faces_own_cache(
    tmp_path: Path, folder: Path, sharded: dict[str, str]
) -> None:
    outside = tmp_path / "blobs"
    outside.mkdir()
    for name in ("model-1.safetensors", "config.json"):
        (folder / name).touch()
        shutil.move(folder / name, outside / name)
        (folder / name).symlink_to(outside / name)
        with pytest.raises(FormatError, match=f"{re.escape(name)} is a link to .*outside"):
            open_checkpoint(folder)
        (folder / name).unlink()
        shutil.move(outside / name, folder / name)
    (folder / "config.json").write_text("{}")
    snapshot = tmp_path / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.move(file, outside / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    with open_checkpoint(snapshot) as checkpoint:
        assert sorted(checkpoint.names()) == list("abcd")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "something else"),
        (b"{}", "no weight_map"),
        (b'{"weight_map": {}}', "no weight_map"),
        (b'{"weight_map": []}', "no weight_map"),
        (b'{"weight_map": {"a": 5}}', "no text"),
        (json.dumps({"weight_map": {f"t{i}": f"s{i}" for i in range(2000)}}).encode(), "1000"),
        (b" " * (MAX_JSON_BYTES + 1), "no model needs that"),
    ],
)
def test_a_damaged_index_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / INDEX).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_checkpoint(folder)


def test_what_is_no_shard_is_refused(folder: Path, sharded: dict[str, str]) -> None:
    (folder / "model-1.safetensors").unlink()
    (folder / "model-1.safetensors").mkdir()
    with pytest.raises(FormatError, match="is a Hugging Face folder; wanted"):
        open_checkpoint(folder)


def test_a_shard_that_shrinks_is_named(folder: Path, sharded: dict[str, str]) -> None:
    with open_checkpoint(folder) as checkpoint:
        (folder / "model-1.safetensors").write_bytes(b"")
        with pytest.raises(FormatError, match=r"model-1\.safetensors: changed while"):
            checkpoint.read("b")
        (folder / "model-0.safetensors").unlink()
    with pytest.raises(FormatError, match="missing"):
        open_checkpoint(folder)


def test_the_output_is_never_a_file_of_the_input(tmp_path: Path, folder: Path) -> None:
    shard(folder, fla_7(write_tiny(tmp_path / "m.pth", "7")))
    before = {file: file.read_bytes() for file in folder.iterdir()}
    for name in ("model-0.safetensors", "model-2.safetensors"):
        with pytest.raises(InputError, match="is the checkpoint itself"):
            convert(folder, folder / name)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
