"""rwkv.cpp's files become the GGUF of the checkpoint; damaged and outlived ones are refused."""

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from rwkv_edge.converters.checkpoints import container_of, open_checkpoint
from rwkv_edge.converters.checkpoints.rwkv_cpp import MAX_PARAMETERS
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.model_source import open_model_checkpoint, open_model_source
from rwkv_edge.converters.names.rwkv_cpp import log_of_log
from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.quant import QUANT_FORMATS
from tests.converters.checkpoints.rwkv_cpp_writer import (
    TYPES,
    encoded,
    header,
    parameter,
    write_rwkv_cpp,
)
from tests.converters.foreign_names import rwkv_cpp, write_tiny

VERSIONS = ["4", "5.0", "5.1", "5.2", "6", "7"]
BLOCKS = [kind for kind in TYPES if kind not in ("FP32", "FP16")]


def both(tmp_path: Path, version: str, dtype: str, kind: str, number: int = 101) -> list[Path]:
    """A `.pth`, and a file of rwkv.cpp, by the same name."""
    for name in ("own", "foreign"):
        (tmp_path / name).mkdir()
    pth, other = tmp_path / "own" / "m.pth", tmp_path / "foreign" / "m.bin"
    write_rwkv_cpp(other, rwkv_cpp(write_tiny(pth, version, dtype), version), kind, number)
    return [pth, other]


@pytest.mark.parametrize("number", [100, 101])
@pytest.mark.parametrize(("kind", "dtype"), [("FP32", "float32"), ("FP16", "float16")])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_gguf_is_the_one_of_the_checkpoint(
    tmp_path: Path, version: str, kind: str, dtype: str, number: int
) -> None:
    pth, other = both(tmp_path, version, dtype, kind, number)
    assert container_of(other).name == "rwkv.cpp"
    wanted = convert(pth, tmp_path / "wanted.gguf", "Q4_0").path
    found = convert(other, tmp_path / "found.gguf", "Q4_0").path
    if version in ("6", "7"):
        assert found.read_bytes() == wanted.read_bytes()
        return
    with GgufFile(wanted) as one, GgufFile(found) as two:
        assert list(map(repr, one.metadata.items())) == list(map(repr, two.metadata.items()))
        assert list(one.tensors) == list(two.tensors)
        for name in one.tensors:
            tensors = [np.array(file.tensors[name].decode()) for file in (one, two)]
            if name.endswith("time_mix_decay.weight"):
                # Through an exponential and back: twice rounded by half of float32's last place,
                # for RWKV-5 as the decay that it stands for.
                decays = tensors if version == "4" else [np.exp(-np.exp(t)) for t in tensors]
                np.testing.assert_allclose(*decays, rtol=3e-7)
            else:
                np.testing.assert_array_equal(*tensors, err_msg=name)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("version", ["4", "6", "7"])
def test_blocks_are_decoded_as_gguf_py_decodes_them(
    tmp_path: Path, version: str, kind: str
) -> None:
    own = rwkv_cpp(write_tiny(tmp_path / "m.pth", version), version)
    path = tmp_path / "m.bin"
    write_rwkv_cpp(path, own, kind)
    if kind not in QUANT_FORMATS:
        with pytest.raises(UnsupportedModelError, match=f"is {kind}, which this version does not"):
            open_checkpoint(path)
        return
    n_blocks = 0
    with open_checkpoint(path) as checkpoint:
        for name, tensor in own.items():
            used, data = encoded(name, tensor, kind)
            raw = np.frombuffer(data, np.uint8)
            if used == kind:
                n_blocks += 1
                raw = raw.reshape(tensor.shape[0], -1)
                wanted = quants.dequantize(raw, GGMLQuantizationType[kind])
                rows = np.empty((2, tensor.shape[1]), np.float32)
                checkpoint.read_rows(name, tensor.shape[0] - 2, tensor.shape[0], rows)
                np.testing.assert_array_equal(rows, wanted[-2:])
                assert checkpoint.stored_as(name) == kind
                assert checkpoint.dtype(name) == "float32"
            else:
                wanted = raw.view(np.float32 if used == "FP32" else np.float16)
            np.testing.assert_array_equal(checkpoint.read(name).ravel(), wanted.ravel())
    assert n_blocks > 5
    # Low-rank matrices, too, which lie turned in the file.
    with open_model_checkpoint(path) as checkpoint:
        name = {"6": "blocks.1.att.time_decay_w1", "7": "blocks.1.att.w1"}.get(version)
        if name is not None:
            used, data = encoded(name, own[name], kind)
            raw = np.frombuffer(data, np.uint8).reshape(own[name].shape[0], -1)
            wanted = quants.dequantize(raw, GGMLQuantizationType[kind])
            np.testing.assert_array_equal(checkpoint.read(name), wanted.T)
            rows = np.empty((5, wanted.shape[0]), np.float32)
            checkpoint.read_rows(name, 3, 8, rows)
            np.testing.assert_array_equal(rows, wanted.T[3:8])
    summary = convert(path, tmp_path / "m.gguf", "Q8_0")
    assert [note for note in summary.notes if f"its weights are {kind} already" in note]


def test_decays_that_are_all_or_nothing_come_back_as_such() -> None:
    decay = np.float32([0, 1, 0.5, np.nextafter(np.float32(1), np.float32(0)), 1e-38])
    stored = log_of_log(decay)
    assert np.isfinite(stored).all()
    found = np.exp(-np.exp(stored.astype(np.float64)))
    # 1e-38 is where the last place of time_decay is 40 times that of the decay.
    np.testing.assert_allclose(found.astype(np.float32), decay, rtol=3e-5)


def test_numbers_that_are_no_decay_are_refused(tmp_path: Path) -> None:
    own = rwkv_cpp(write_tiny(tmp_path / "m.pth", "4"), "4")
    own["blocks.0.att.time_decay"] = -own["blocks.0.att.time_decay"]
    write_rwkv_cpp(tmp_path / "m.bin", own)
    with pytest.raises(FormatError, match=r"time_mix_decay.*NaN or infinity"):
        convert(tmp_path / "m.bin", tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_of_before_may_2023_are_refused(tmp_path: Path, kind: str) -> None:
    own = rwkv_cpp(write_tiny(tmp_path / "m.pth", "4"), "4")
    write_rwkv_cpp(tmp_path / "m.bin", own, kind, version=100)
    with pytest.raises(UnsupportedModelError, match=f"is {kind} as ggml had it before May 2023"):
        open_model_source(tmp_path / "m.bin")


@pytest.mark.parametrize(("kind", "name"), [(4, "Q4_1_O"), (5, "Q4_2"), (6, "Q4_3")])
def test_types_that_ggml_removed_are_refused_by_name(tmp_path: Path, kind: int, name: str) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(header(101, 4, 32, 1, kind) + parameter("a", (32,), kind, bytes(20)))
    with pytest.raises(UnsupportedModelError, match=f"a is {name}, which ggml had"):
        open_checkpoint(path)


HEAD = header(101, 4, 8, 1, 0)
GOOD = parameter("emb.weight", (4, 8), 0, bytes(4 * 8 * 4))
DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing but a header": (HEAD, "holds no tensors"),
    "half a header": (HEAD[:20], "ends inside its header"),
    "another version": (header(1, 4, 8, 1, 0), "version 1 of rwkv.cpp"),
    "a negative version": (header(-1, 4, 8, 1, 0), "version -1"),
    "no dimensions": (HEAD + parameter("a", (), 0, b""), "0 dimensions"),
    "four dimensions": (HEAD + parameter("a", (1, 1, 1, 1), 0, bytes(4)), "4 dimensions"),
    "2^31 dimensions": (HEAD + struct.pack("<iii", -1, 1, 0), "-1 dimensions"),
    "a name of 2 GiB": (HEAD + struct.pack("<iii", 1, (1 << 31) - 1, 0), "name of 2147483647"),
    "no name": (HEAD + parameter("", (1,), 0, bytes(4)), "name of 0"),
    "a name that is no text": (
        HEAD + struct.pack("<iiii", 1, 2, 0, 1) + b"\xff\xfe" + bytes(4), "no UTF-8"
    ),
    "a name that moves the cursor": (HEAD + parameter("a\x1b[2J", (1,), 0, bytes(4)), "no name"),
    "a dimension of zero": (HEAD + parameter("a", (0, 3), 0, b""), "damaged"),
    "a negative dimension": (HEAD + parameter("a", (-4, -8), 0, bytes(128)), "damaged"),
    "dimensions that overflow": (
        HEAD + parameter("a", (1 << 30, 1 << 30, 1 << 30), 0, bytes(64)), "bytes; 64 follow"
    ),
    "a row of half a block": (HEAD + parameter("a", (2, 16), 2, bytes(18)), "multiple of 32"),
    "an unknown type": (HEAD + parameter("a", (1,), 77, bytes(4)), "type 77"),
    "a negative type": (HEAD + parameter("a", (1,), -1, bytes(4)), "type -1"),
    "a parameter twice": (HEAD + GOOD + GOOD, "twice"),
    "an embedding of another size": (
        HEAD + parameter("emb.weight", (4, 9), 0, bytes(4 * 9 * 4)), "its header says"
    ),
    "many parameters": (
        HEAD + b"".join(parameter(f"{i}", (1,), 0, bytes(4)) for i in range(MAX_PARAMETERS + 1)),
        "more than",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        open_checkpoint(path)
    assert str(caught.value).isprintable()


def test_a_file_cut_anywhere_else_than_between_parameters_is_refused(tmp_path: Path) -> None:
    whole = HEAD + GOOD + parameter("b", (3,), 1, bytes(6))
    path = tmp_path / "m.bin"
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        if n_bytes == len(HEAD + GOOD):
            continue
        with pytest.raises(FormatError, match=r"m\.bin"):
            open_checkpoint(path)


def test_a_file_cut_between_parameters_lacks_some(tmp_path: Path) -> None:
    own: dict[str, Any] = rwkv_cpp(write_tiny(tmp_path / "m.pth", "4"), "4")
    del own["head.weight"]
    write_rwkv_cpp(tmp_path / "m.bin", own)
    with pytest.raises(FormatError, match=r"head\.weight is missing"):
        open_model_source(tmp_path / "m.bin")


def test_any_changed_byte_is_refused_or_read_within_bounds(tmp_path: Path) -> None:
    whole = bytearray(HEAD + GOOD + parameter("b", (1, 32), 2, bytes(18)))
    path = tmp_path / "m.bin"
    for i in range(len(whole)):
        for value in {0, 0xFF, whole[i] ^ 1, whole[i] ^ 0x80}:
            changed = whole.copy()
            changed[i] = value
            path.write_bytes(changed)
            with (
                contextlib.suppress(FormatError, UnsupportedModelError),
                open_checkpoint(path) as checkpoint,
            ):
                for name in checkpoint.names():
                    checkpoint.read(name)
