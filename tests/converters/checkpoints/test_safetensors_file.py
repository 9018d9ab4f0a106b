"""Safetensors headers, from the official writer and from an attacker."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.safetensors_file import MAX_HEADER_BYTES
from rwkv_edge.errors import FormatError

ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
DATA = np.arange(4, dtype=np.float32).tobytes()


@pytest.fixture
def forge(tmp_path: Path) -> Callable[..., Path]:
    def write(header: Any, data: bytes = DATA, length: int | None = None) -> Path:
        encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / "forged.safetensors"
        n_bytes = len(encoded) if length is None else length
        path.write_bytes(struct.pack("<Q", n_bytes) + encoded + data)
        return path

    return write


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_equal_what_the_official_package_saved(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    state = {"blocks.0.att.r_k": torch.randn(2, 8), "emb.weight": torch.randn(9, 16)}
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}
    # The name does not decide what a file is.
    path = tmp_path / "model.pth"
    save_file(state, path, metadata={"format": "pt"})
    with open_checkpoint(path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(state)
        for name, tensor in state.items():
            assert checkpoint.dtype(name) == dtype
            np.testing.assert_array_equal(checkpoint.read(name), tensor.float().numpy())


def test_a_forged_file_without_faults_is_read(forge: Callable[..., Path]) -> None:
    with open_checkpoint(forge({"a": ENTRY})) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("a"), [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 12]},
        {"data_offsets": [4, 20]},
        {"data_offsets": [-4, 12]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0.0, 16.0]},
        {"data_offsets": None},
        {"shape": [2, 3]},
        {"shape": [-2, -2]},
        {"shape": [2.0, 2]},
        {"shape": [True, 4]},
        {"shape": [1] * 9 + [4]},
        {"shape": [1 << 62, 4]},
        {"shape": "4"},
        {"dtype": 5},
        {"dtype": None},
    ],
)
def test_an_entry_that_lies_is_refused(forge: Callable[..., Path], change: Any) -> None:
    with pytest.raises(FormatError, match="damaged"):
        open_checkpoint(forge({"a": ENTRY | change}))


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"{" + b" " * 20,
        b'{"a": \xff}',
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 100_000,
        b'{"a": ' + b"1" * 10_000 + b"}",
    ],
)
def test_a_header_that_is_not_json_is_refused(forge: Callable[..., Path], header: bytes) -> None:
    with pytest.raises(FormatError, match="damaged"):
        open_checkpoint(forge(header))


def test_a_name_for_two_places_is_refused(forge: Callable[..., Path]) -> None:
    places = [json.dumps(ENTRY | {"data_offsets": [i, i + 16]}).encode() for i in (0, 16)]
    with pytest.raises(FormatError, match="damaged"):
        open_checkpoint(forge(b'{"a": %s, "a": %s}' % tuple(places), DATA * 2))


def test_tensors_of_other_types_between_do_not_shift_the_rest(forge: Callable[..., Path]) -> None:
    header = {
        "c": ENTRY | {"data_offsets": [11, 27]},
        "a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "I64", "shape": [1], "data_offsets": [3, 11]},
    }
    with open_checkpoint(forge(header, bytes(11) + DATA)) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("c"), [[0, 1], [2, 3]])


@pytest.mark.parametrize("length", [3, 5000, 1 << 20])
def test_a_header_of_the_wrong_length_is_refused(forge: Callable[..., Path], length: int) -> None:
    with pytest.raises(FormatError):
        open_checkpoint(forge({"a": ENTRY}, length=length))


def test_a_file_cut_anywhere_is_refused(forge: Callable[..., Path], tmp_path: Path) -> None:
    whole = forge({"a": ENTRY}).read_bytes()
    path = tmp_path / "cut.safetensors"
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(FormatError, match=r"cut\.safetensors"):
            open_checkpoint(path)


def test_other_numbers_are_listed_and_refused_when_read(forge: Callable[..., Path]) -> None:
    with open_checkpoint(forge({"a": ENTRY | {"dtype": "F8_E5M2", "shape": [16]}})) as checkpoint:
        assert checkpoint.dtype("a") == "F8_E5M2"
        with pytest.raises(FormatError, match="a holds F8_E5M2 numbers"):
            checkpoint.read("a")


@pytest.mark.parametrize("shape", [[0, 1 << 63], [1 << 40, 0, 1 << 40]])
def test_an_empty_tensor_of_absurd_dimensions_is_refused(
    forge: Callable[..., Path], shape: Any
) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [16, 16]}
    with pytest.raises(FormatError, match=r"larger than any tensor|damaged"):
        open_checkpoint(forge({"a": ENTRY, "b": entry}))


def test_a_header_of_many_empty_tensors_does_not_fill_the_memory(
    forge: Callable[..., Path],
) -> None:
    """An eighth of the most that are let through, in an eighth of what they may take."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}

    def header(n_bytes: int) -> bytes:
        entry = json.dumps(empty, separators=(",", ":"))
        entries = (f'"{i:06}":{entry}' for i in range(n_bytes // (len(entry) + 10)))
        return b"{" + ",".join(entries).encode() + b"}"

    path = forge(header(MAX_HEADER_BYTES // 8), b"")
    tracemalloc.start()
    try:
        with open_checkpoint(path) as checkpoint:
            assert len(checkpoint.names()) > 5000
        limit = 2 * path.stat().st_size + (64 << 20) // 8
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
    with pytest.raises(FormatError, match="its header says"):
        open_checkpoint(forge(header(MAX_HEADER_BYTES + 200), b""))
