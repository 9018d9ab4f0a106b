"""RWKV-7a checkpoints: what must be there, and the tables that are computed out of them."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.arch import ARCHITECTURES
from rwkv_edge.converters import row_encoder
from rwkv_edge.converters.arch import rwkv7a
from rwkv_edge.converters.arch.rwkv7a import MergedTable, Rwkv7aReader
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.synthetic.rwkv7a import SyntheticRwkv7a
from rwkv_edge.errors import FormatError
from rwkv_edge.model_file import ModelFile

Shapes = dict[str, tuple[int, ...]]
READER = Rwkv7aReader()
HP = synthetic_hyperparameters(
    2, 64, version="7a", n_ffn=160, n_vocab=256, head_size=32, ranks=(8, 16, 24, 40)
)


@pytest.fixture
def shapes() -> Shapes:
    return SyntheticRwkv7a().shapes(HP)


@pytest.fixture
def rwkv7a_pth(tmp_path: Path) -> Path:
    write_synthetic(tmp_path / "deep.pth", HP)
    return tmp_path / "deep.pth"


def test_hyperparameters_are_read_off_the_shapes(shapes: Shapes) -> None:
    assert READER.check(shapes) == HP
    assert HP.version == "7a"


def test_every_tensor_of_the_gguf_has_a_source() -> None:
    specs = ARCHITECTURES["rwkv7a"].tensors(HP)
    assert {spec.name for spec in specs} == set(READER.sources(HP))


def test_every_tensor_is_required_in_its_shape(shapes: Shapes) -> None:
    for name, shape in shapes.items():
        without = {key: found for key, found in shapes.items() if key != name}
        with pytest.raises(FormatError, match=rf"{name.replace('.', '[.]')}.*missing"):
            READER.check(without)
        with pytest.raises(FormatError, match=r"\["):
            READER.check(shapes | {name: (*shape[:-1], shape[-1] + 1)})


@pytest.mark.parametrize("block_rows", [1, 100, 256, 1000])
def test_a_table_is_the_sum_of_both_embeddings_of_a_token(
    rwkv7a_pth: Path, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rwkv7a, "BLOCK_ROWS", block_rows)
    with open_checkpoint(rwkv7a_pth) as checkpoint:
        found = MergedTable(1).load(checkpoint, (256, 1024))
        x = checkpoint.read("emb.weight").astype(np.float64)
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        x = x * checkpoint.read("blocks.0.ln0.weight") + checkpoint.read("blocks.0.ln0.bias")
        added = x @ checkpoint.read("blocks.1.ffn.s_emb_x.weight").T.astype(np.float64)
        wanted = checkpoint.read("blocks.1.ffn.s_emb.weight") + added
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_table_is_encoded_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.vocab.txt").write_text("1 'a' 1\n")
    hp = synthetic_hyperparameters(1, 64, version="7a", n_ffn=64, n_vocab=8192)
    write_synthetic(tmp_path / "m.pth", hp)
    convert(tmp_path / "m.pth", tmp_path / "warm.gguf")
    monkeypatch.setattr(row_encoder, "CHUNK_WEIGHTS", 1 << 16)
    peaks: list[int] = []

    def watch(done: int, total: int) -> None:
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32", progress=watch)
    finally:
        tracemalloc.stop()
    file = ModelFile(tmp_path / "m.gguf")
    assert file.tensor("blk.0.channel_mix_s_emb.weight").raw.nbytes == 32 << 20
    file.close()
    # The first piece counts what the directory of the checkpoint took.
    assert max(peaks[1:]) < 8 << 20


def test_threads_do_not_change_the_bytes(rwkv7a_pth: Path, tmp_path: Path) -> None:
    files = []
    for threads in (1, 3):
        convert(rwkv7a_pth, tmp_path / "m.gguf", threads=threads)
        files.append((tmp_path / "m.gguf").read_bytes())
    assert files[0] == files[1]


def test_a_table_that_holds_no_number_is_refused_by_its_name(
    rwkv7a_pth: Path, tmp_path: Path
) -> None:
    with open_checkpoint(rwkv7a_pth) as checkpoint, PthWriter(tmp_path / "bad.pth") as writer:
        for name in checkpoint.names():
            data = checkpoint.read(name)
            if name == "blocks.1.ffn.s_emb.weight":
                data[200, 7] = np.nan
            writer.add(name, "float32", checkpoint.shape(name), [data.tobytes()])
    with pytest.raises(FormatError, match=r"blk\.1\.channel_mix_s_emb\.weight: holds NaN"):
        convert(tmp_path / "bad.pth", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()
