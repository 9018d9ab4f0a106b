"""A converted file holds every tensor, as gguf-py reads it; a failed conversion leaves nothing."""

import dataclasses
import errno
import io
import os
import shutil
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType, TokenType, quants

from rwkv_edge.arch import ARCHITECTURES, Role
from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters import row_encoder
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.gguf_file import FILE_TYPES
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError, InputError, RwkvEdgeError, UnsupportedModelError
from rwkv_edge.quant import QUANT_FORMATS

LORA = {"F32": "F32", "BF16": "BF16"}
# Those that gguf-py encodes as we do, and whose matrices all have one format.
PLAIN_TYPES = ("F32", "F16", "BF16", "Q4_0", "Q8_0")
AS_STORED = {
    "token_embd.weight": "emb.weight",
    "token_embd_norm.bias": "blocks.0.ln0.bias",
    "output_norm.weight": "ln_out.weight",
    "output.weight": "head.weight",
    "blk.1.attn_norm.weight": "blocks.1.ln1.weight",
    "blk.1.attn_norm_2.bias": "blocks.1.ln2.bias",
    "blk.2.time_mix_receptance.weight": "blocks.2.att.receptance.weight",
    "blk.2.time_mix_key.weight": "blocks.2.att.key.weight",
    "blk.2.time_mix_value.weight": "blocks.2.att.value.weight",
    "blk.2.time_mix_output.weight": "blocks.2.att.output.weight",
    "blk.1.channel_mix_key.weight": "blocks.1.ffn.key.weight",
    "blk.1.channel_mix_value.weight": "blocks.1.ffn.value.weight",
    "blk.1.channel_mix_lerp_k.weight": "blocks.1.ffn.x_k",
    "blk.1.time_mix_ln.weight": "blocks.1.att.ln_x.weight",
    "blk.0.time_mix_k_k.weight": "blocks.0.att.k_k",
}


def field(reader: GGUFReader, key: str) -> Any:
    found = reader.get_field(key)
    return None if found is None else found.contents()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".partial" in path.name]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("weight_type", PLAIN_TYPES)
def test_tensors_are_those_of_the_checkpoint_quantized_by_gguf_py(
    tmp_path: Path, tiny: Rwkv7Hyperparameters, weight_type: str, dtype: str
) -> None:
    if weight_type == "Q4_0" and version("gguf").startswith("0.17"):
        pytest.skip("gguf-py before 0.18 rounds Q4_0 once, as a fused multiply-add would")
    source, out = tmp_path / "m.pth", tmp_path / "m.gguf"
    write_synthetic(source, tiny, dtype=dtype)
    convert(source, out, weight_type)
    tensors = {tensor.name: tensor for tensor in GGUFReader(out).tensors}
    specs = {spec.name: spec for spec in ARCHITECTURES["rwkv7"].tensors(tiny)}
    assert list(tensors) == list(specs)
    for name, tensor in tensors.items():
        role = specs[name].role
        wanted = {
            Role.MATRIX: weight_type,
            Role.LORA: LORA.get(weight_type, "F16"),
            Role.VECTOR: "F32",
        }[role]
        assert tensor.tensor_type.name == wanted
        assert tuple(reversed(tensor.shape.tolist())) == specs[name].shape
    with open_checkpoint(source) as checkpoint:
        for name, key in AS_STORED.items():
            tensor = tensors[name]
            plain = checkpoint.read(key).reshape(specs[name].shape)
            expected = quants.quantize(plain, tensor.tensor_type).view(np.uint8)
            np.testing.assert_array_equal(tensor.data.view(np.uint8), expected, err_msg=name)
            decoded = quants.dequantize(tensor.data.view(np.uint8), tensor.tensor_type)
            ours = QUANT_FORMATS[tensor.tensor_type.name].decode(
                tensor.data.view(np.uint8), plain.shape[-1]
            )
            np.testing.assert_array_equal(ours.ravel(), decoded.ravel())


@pytest.mark.parametrize(
    ("weight_type", "file_type"),
    [("F32", 0), ("F16", 1), ("Q4_0", 2), ("Q8_0", 7), ("BF16", 32)],
)
def test_the_header_says_what_llama_cpp_asks_for(
    tmp_path: Path, tiny_pth: Path, weight_type: str, file_type: int
) -> None:
    summary = convert(tiny_pth, tmp_path / "m.gguf", weight_type)
    reader = GGUFReader(summary.path)
    expected = {
        "general.architecture": "rwkv7",
        "general.name": "tiny",
        "general.file_type": file_type,
        "general.quantization_version": 2,
        "rwkv7.context_length": 1048576,
        "rwkv7.embedding_length": 128,
        "rwkv7.block_count": 3,
        "rwkv7.feed_forward_length": 320,
        "rwkv7.attention.layer_norm_epsilon": np.float32(1e-5),
        "rwkv7.attention.head_count": 0,
        "rwkv7.wkv.head_size": 64,
        "rwkv7.attention.decay_lora_rank": 32,
        "rwkv7.attention.iclr_lora_rank": 64,
        "rwkv7.attention.value_residual_mix_lora_rank": 40,
        "rwkv7.attention.gate_lora_rank": 96,
    }
    assert {key: field(reader, key) for key in expected} == expected
    assert LlamaFileType(file_type) == FILE_TYPES[weight_type]


def test_the_summary_says_what_was_written(tmp_path: Path, tiny_pth: Path) -> None:
    summary = convert(tiny_pth, tmp_path / "m.gguf")
    assert summary.path == tmp_path / "m.gguf"
    assert summary.n_bytes == summary.path.stat().st_size
    assert summary.n_tensors == len(GGUFReader(summary.path).tensors)
    assert (summary.weight_type, summary.tokenizer, summary.vocabulary, summary.notes) == (
        "Q4_0",
        "bytes",
        "bytes",
        (),
    )
    assert summary.seconds > 0


def test_a_byte_model_has_256_bytes_and_no_end_of_document(tmp_path: Path, tiny_pth: Path) -> None:
    reader = GGUFReader(convert(tiny_pth, tmp_path / "m.gguf").path)
    tokens = field(reader, "tokenizer.ggml.tokens")
    assert len(tokens) == 256
    assert (tokens[0], tokens[10], tokens[65], tokens[255]) == ("\\x00", "\\n", "A", "\\xff")
    assert (tokens[92], tokens[39]) == ("\\\\", "'")
    assert field(reader, "rwkv_edge.tokenizer") == "bytes"
    assert set(field(reader, "tokenizer.ggml.token_type")) == {TokenType.NORMAL}
    for key in ("bos_token_id", "eos_token_id", "eot_token_id"):
        assert field(reader, f"tokenizer.ggml.{key}") is None
    assert field(reader, "tokenizer.chat_template") is None


def test_a_world_model_ends_documents_with_0_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "m.pth"
    write_synthetic(source, synthetic_hyperparameters(1, 64))
    summary = convert(source, tmp_path / "m.gguf")
    assert summary.tokenizer == "world"
    assert summary.notes == ()
    reader = GGUFReader(summary.path)
    tokens = field(reader, "tokenizer.ggml.tokens")
    types = field(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == 65536
    assert (tokens[0], types[0]) == ("<s>", TokenType.CONTROL)
    assert (tokens[261], types[261]) == ("\\n\\n", TokenType.NORMAL)
    assert (tokens[65529], types[65529]) == (" " * 128, TokenType.NORMAL)
    assert (tokens[65530], types[65530]) == ("[PAD65530]", TokenType.UNUSED)
    for key in ("bos_token_id", "eos_token_id", "eot_token_id"):
        assert field(reader, f"tokenizer.ggml.{key}") == 0
    assert field(reader, "tokenizer.ggml.add_bos_token") is False
    assert field(reader, "tokenizer.chat_template") == "rwkv-world"
    assert field(reader, "tokenizer.ggml.model") == "rwkv"


def test_a_small_vocabulary_is_padded_and_said(tmp_path: Path, tiny_pth: Path) -> None:
    tiny_pth.with_name("tiny.vocab.txt").write_text("1 'a' 1\n2 '\\n' 1\n")
    summary = convert(tiny_pth, tmp_path / "m.gguf")
    assert summary.vocabulary == str(tiny_pth.with_name("tiny.vocab.txt"))
    assert summary.notes == ("the vocabulary has 3 ids of 256: the rest is padding",)
    reader = GGUFReader(summary.path)
    assert field(reader, "tokenizer.ggml.tokens")[:4] == ["<s>", "a", "\\n", "[PAD3]"]
    assert field(reader, "tokenizer.chat_template") is None


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
def test_rows_that_fit_no_block_fall_back_to_f16_and_say_so(
    tmp_path: Path, weight_type: str
) -> None:
    hp = synthetic_hyperparameters(2, 48, n_ffn=64, n_vocab=256, head_size=16, ranks=(8, 8, 8, 8))
    write_synthetic(tmp_path / "m.pth", hp)
    summary = convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
    assert summary.notes == (
        f"12 matrices are F16: {weight_type} needs rows of a multiple of 32 weights",
    )
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(summary.path).tensors}
    assert types["blk.0.channel_mix_value.weight"] == weight_type
    assert types["blk.0.channel_mix_key.weight"] == "F16"


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_change_the_bytes(
    tmp_path: Path, tiny_pth: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(tiny_pth, tmp_path / "one.gguf", threads=1)
    # Chunks of a few rows, so that every thread meets every tensor.
    monkeypatch.setattr(row_encoder, "CHUNK_WEIGHTS", 700)
    monkeypatch.setattr(row_encoder, "PIECE_WEIGHTS", 96)
    convert(tiny_pth, tmp_path / "many.gguf", threads=threads)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()


def test_transposed_and_shared_matrices_convert_as_plain_ones(
    tmp_path: Path, tiny_pth: Path
) -> None:
    torch = pytest.importorskip("torch")
    state = torch.load(tiny_pth, weights_only=True)
    plain = convert(tiny_pth, tmp_path / "plain.gguf").path.read_bytes()
    for name, tensor in state.items():
        if tensor.ndim == 2:
            state[name] = tensor.t().contiguous().t()
    folder = tmp_path / "again"
    folder.mkdir()
    torch.save(state, folder / "tiny.pth")
    assert convert(folder / "tiny.pth", tmp_path / "t.gguf").path.read_bytes() == plain


def test_safetensors_convert_as_pth(tmp_path: Path, tiny_pth: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file(torch.load(tiny_pth, weights_only=True), tmp_path / "tiny.safetensors")
    one = convert(tiny_pth, tmp_path / "a.gguf").path.read_bytes()
    assert convert(tmp_path / "tiny.safetensors", tmp_path / "b.gguf").path.read_bytes() == one


def test_progress_runs_from_nothing_to_all(tmp_path: Path, tiny_pth: Path) -> None:
    calls: list[tuple[int, int]] = []
    summary = convert(
        tiny_pth, tmp_path / "m.gguf", progress=lambda done, total: calls.append((done, total))
    )
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert done[-1] == calls[0][1] < summary.n_bytes
    assert len({total for _, total in calls}) == 1


def rewrite(source: Path, target: Path, change: dict[str, np.ndarray | None]) -> None:  # type: ignore[type-arg]
    """Copy a checkpoint as float32, with some tensors replaced, or dropped."""
    with open_checkpoint(source) as checkpoint, PthWriter(target) as writer:
        for name in checkpoint.names():
            data = change.get(name, checkpoint.read(name))
            if data is not None:
                writer.add(name, "float32", checkpoint.shape(name), [data.tobytes()])


@pytest.mark.parametrize("weight_type", FILE_TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("key", "named_as"),
    [
        ("blocks.1.ffn.key.weight", "blocks.1.ffn.key.weight"),
        ("blocks.2.att.w1", "blk.2.time_mix_w1.weight"),
        ("blocks.0.ln1.bias", "blk.0.attn_norm.bias"),
        ("blocks.1.att.x_a", "blk.1.time_mix_lerp_fused.weight"),
    ],
)
def test_a_weight_that_is_no_number_is_refused_by_its_tensor(
    tmp_path: Path, tiny_pth: Path, key: str, named_as: str, bad: float, weight_type: str
) -> None:
    with open_checkpoint(tiny_pth) as checkpoint:
        weights = checkpoint.read(key)
    weights.reshape(-1)[-1] = bad
    rewrite(tiny_pth, tmp_path / "bad.pth", {key: weights})
    with pytest.raises(FormatError, match=rf"bad\.pth: {named_as}: holds NaN or infinity"):
        convert(tmp_path / "bad.pth", tmp_path / "m.gguf", weight_type)
    assert not (tmp_path / "m.gguf").exists()
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("weight_type", "key", "value"),
    [
        ("Q4_0", "emb.weight", 6e5),
        ("Q8_0", "emb.weight", 1e7),
        ("F16", "emb.weight", 7e4),
        ("BF16", "emb.weight", 3.4e38),
        ("Q4_0", "blocks.0.att.g1", 7e4),
    ],
)
def test_a_weight_too_large_for_its_format_is_refused_with_a_remedy(
    tmp_path: Path, tiny_pth: Path, weight_type: str, key: str, value: float
) -> None:
    with open_checkpoint(tiny_pth) as checkpoint:
        weights = checkpoint.read(key)
    weights[0, 0] = -value
    rewrite(tiny_pth, tmp_path / "large.pth", {key: weights})
    with pytest.raises(FormatError, match=r"too large for .*convert to F32"):
        convert(tmp_path / "large.pth", tmp_path / "m.gguf", weight_type)
    assert convert(tmp_path / "large.pth", tmp_path / "m.gguf", "F32").n_bytes > 0


def test_an_incomplete_checkpoint_is_refused_with_its_name(tmp_path: Path, tiny_pth: Path) -> None:
    rewrite(tiny_pth, tmp_path / "part.pth", {"blocks.1.att.g2": None})
    with pytest.raises(FormatError, match=r"part\.pth: blocks\.1\.att\.g2 is missing"):
        convert(tmp_path / "part.pth", tmp_path / "m.gguf")


def test_another_version_is_refused_with_its_name(tiny_pth: Path, tmp_path: Path) -> None:
    with open_checkpoint(tiny_pth) as checkpoint, PthWriter(tmp_path / "other.pth") as writer:
        for name in [*checkpoint.names(), "blocks.0.ffn.enn.weight"]:
            like = name if name in checkpoint.names() else "blocks.0.ffn.key.weight"
            data = checkpoint.read(like)
            writer.add(name, "float32", checkpoint.shape(like), [data.tobytes()])
    with pytest.raises(UnsupportedModelError, match=r"other\.pth: is an RWKV-8 model"):
        convert(tmp_path / "other.pth", tmp_path / "m.gguf")


def test_the_checkpoint_is_never_overwritten(tmp_path: Path, tiny_pth: Path) -> None:
    before = tiny_pth.read_bytes()
    with pytest.raises(InputError, match="checkpoint itself"):
        convert(tiny_pth, tiny_pth)
    link = tmp_path / "link.gguf"
    os.link(tiny_pth, link)
    with pytest.raises(InputError, match="checkpoint itself"):
        convert(tiny_pth, link)
    assert tiny_pth.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_type": "Q5_K"}, "Q5_K: wanted one of F32"),
        ({"threads": 0}, "threads 0"),
        ({"destination": "."}, "is a folder"),
        ({"destination": "no/such/folder/m.gguf"}, "folder does not exist"),
    ],
)
def test_an_impossible_request_is_refused(
    tmp_path: Path, tiny_pth: Path, options: dict[str, Any], message: str
) -> None:
    options = {"destination": "m.gguf"} | options
    destination = tmp_path / options.pop("destination")
    with pytest.raises(InputError, match=message):
        convert(tiny_pth, destination, **options)


def test_an_existing_file_stays_until_the_new_one_is_whole(tmp_path: Path, tiny_pth: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_bytes(b"the old one")

    def interrupt(done: int, total: int) -> None:
        assert out.read_bytes() == b"the old one"
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tiny_pth, out, progress=interrupt)
    assert out.read_bytes() == b"the old one"
    assert not leftovers(tmp_path)
    convert(tiny_pth, out)
    assert out.read_bytes().startswith(b"GGUF")


def test_no_thread_outlives_a_failed_conversion(tmp_path: Path, tiny_pth: Path) -> None:
    def fail(done: int, total: int) -> None:
        assert any(thread.name.startswith("encode") for thread in threading.enumerate())
        raise InputError("enough")

    # Held, so that its traceback keeps every frame of the conversion alive.
    with pytest.raises(InputError) as held:
        convert(tiny_pth, tmp_path / "m.gguf", progress=fail)
    assert not [t for t in threading.enumerate() if t.name.startswith("encode")]
    assert held.value.args == ("enough",)


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, tiny_pth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RwkvEdgeError, match=r"needs \d+ bytes.*has 1000 free"):
        convert(tiny_pth, tmp_path / "m.gguf")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "cannot be written")]
)
def test_a_failing_disk_leaves_nothing(
    tmp_path: Path, tiny_pth: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RwkvEdgeError, match=message):
        convert(tiny_pth, tmp_path / "m.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.pth"]


def test_a_checkpoint_that_shrinks_meanwhile_is_a_broken_input(
    tmp_path: Path, tiny_pth: Path
) -> None:
    def truncate(done: int, total: int) -> None:
        os.truncate(tiny_pth, 1000)

    with pytest.raises(FormatError, match=r"tiny\.pth.*shrank"):
        convert(tiny_pth, tmp_path / "m.gguf", progress=truncate)
    assert not leftovers(tmp_path)


def test_no_float32_copy_of_a_large_tensor_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every read of a matrix is of a chunk of rows."""
    hp = synthetic_hyperparameters(1, 64, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    monkeypatch.setattr(row_encoder, "CHUNK_WEIGHTS", 1024)
    largest = 0

    from rwkv_edge.converters.checkpoints.base import Checkpoint

    original = Checkpoint._read_into

    def watch(self: Checkpoint, offset: int, buffer: Any, name: str) -> None:
        nonlocal largest
        if name in {"emb.weight", "head.weight"}:
            largest = max(largest, buffer.nbytes)
        original(self, offset, buffer, name)

    monkeypatch.setattr(Checkpoint, "_read_into", watch)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf")
    assert 0 < largest <= 2 * 1024


def test_the_trained_checkpoint_decodes_to_its_own_weights(
    tmp_path: Path, trained_rwkv7: Path
) -> None:
    summary = convert(trained_rwkv7, tmp_path / "m.gguf", "F32")
    assert dataclasses.asdict(summary.hyperparameters) == {
        "version": "7",
        "n_layer": 12,
        "n_embd": 64,
        "n_ffn": 256,
        "n_vocab": 256,
        "head_size": 64,
        "decay_rank": 32,
        "iclr_rank": 32,
        "value_rank": 32,
        "gate_rank": 32,
    }
    tensors = {tensor.name: tensor for tensor in GGUFReader(summary.path).tensors}
    torch = pytest.importorskip("torch")
    state = torch.load(trained_rwkv7, weights_only=True)
    for name, key in AS_STORED.items():
        assert tensors[name].tensor_type == GGMLQuantizationType.F32
        np.testing.assert_array_equal(tensors[name].data.ravel(), state[key].numpy().ravel())


def test_the_output_is_the_same_each_time(tmp_path: Path, tiny_pth: Path) -> None:
    one = convert(tiny_pth, tmp_path / "a.gguf").path.read_bytes()
    assert convert(tiny_pth, tmp_path / "b.gguf").path.read_bytes() == one
    assert io.BytesIO(one).read(4) == b"GGUF"
