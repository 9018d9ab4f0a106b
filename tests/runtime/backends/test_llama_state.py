"""llama.cpp's blob of a state: each number at its place, and every unknown layout refused."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from rwkv_edge import BackendUnavailableError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.runtime.backends.llama_state import LlamaStateFormat

N_LAYER, N_EMBD, N_HEAD, HEAD_SIZE = 2, 12, 3, 4
SHIFT_BYTES, MATRIX_BYTES = 4 * 2 * 12, 4 * 12 * 4
MAGIC = 0xAF143CD8
POSITION = 6
# n_cells, position, n_sequences, is_transposed, n_layer.
CELL = struct.pack("<IiIII", 1, POSITION, 0, 0, N_LAYER)
HEADERS = {"with a magic number": struct.pack("<Ii", MAGIC, 5) + CELL, "without one": CELL}


def state_format(version: str = "7") -> LlamaStateFormat:
    return LlamaStateFormat(Hyperparameters(version, N_LAYER, N_EMBD, 48, 256, HEAD_SIZE), "9.9.9")


def att_x(layer: int, channel: int) -> float:
    return 1000 + 100 * layer + channel


def ffn_x(layer: int, channel: int) -> float:
    return 2000 + 100 * layer + channel


def wkv(layer: int, head: int, row: int, column: int) -> float:
    return 10_000 + 1000 * layer + 100 * head + 10 * row + column


def blob_of(header: bytes) -> bytes:
    """As llama.cpp writes it, one number after the other."""
    parts = [header]
    for layer in range(N_LAYER):
        parts.append(struct.pack("<iQ", 0, SHIFT_BYTES))
        parts += [struct.pack("<f", att_x(layer, i)) for i in range(N_EMBD)]
        parts += [struct.pack("<f", ffn_x(layer, i)) for i in range(N_EMBD)]
    for layer in range(N_LAYER):
        parts.append(struct.pack("<iQ", 0, MATRIX_BYTES))
        for head in range(N_HEAD):
            for row in range(HEAD_SIZE):
                for column in range(HEAD_SIZE):
                    parts.append(struct.pack("<f", wkv(layer, head, row, column)))
    return b"".join(parts)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("version", ["6", "7"])
def test_every_number_of_a_blob_lands_at_its_place(version: str, header: bytes) -> None:
    # RWKV-6 keeps (key, value) and RWKV-7 (value, key), here as there: rows stay rows in both.
    arrays = state_format(version).read(blob_of(header))
    assert {name: array.shape for name, array in arrays.items()} == {
        "att_x": (2, 12),
        "wkv": (2, 3, 4, 4),
        "ffn_x": (2, 12),
    }
    for name, value in (("att_x", att_x), ("wkv", wkv), ("ffn_x", ffn_x)):
        assert arrays[name].dtype == np.float32
        assert arrays[name].flags.c_contiguous
        for index in np.ndindex(arrays[name].shape):
            assert arrays[name][index] == value(*index), (name, index)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("version", ["6", "7"])
def test_a_blob_is_written_as_it_was_read(version: str, header: bytes) -> None:
    blob, states = blob_of(header), state_format(version)
    assert states.header(blob) == header
    assert states.write(states.read(blob), states.header(blob)) == blob


def test_what_is_read_is_not_the_blob_itself() -> None:
    blob = blob_of(CELL)
    for array in state_format().read(blob).values():
        array.fill(1)
    assert state_format().read(blob)["att_x"][0, 0] == 1000


def packed(place: int, layout: str, value: int) -> Callable[[bytes], bytes]:
    """The blob with another number at a byte."""

    def change(blob: bytes) -> bytes:
        raw = struct.pack(layout, value)
        return blob[:place] + raw + blob[place + len(raw) :]

    return change


FIRST_SHIFT = 28
SECOND_SHIFT = FIRST_SHIFT + 12 + SHIFT_BYTES
FIRST_MATRIX = SECOND_SHIFT + 12 + SHIFT_BYTES
SECOND_MATRIX = FIRST_MATRIX + 12 + MATRIX_BYTES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda blob: b"", "bytes: found 0, wanted 652 or 644"),
        (lambda blob: blob[:-1], "bytes: found 651, wanted 652 or 644"),
        (lambda blob: blob + b"\0", "bytes: found 653"),
        (lambda blob: blob[:28], "bytes: found 28"),
        (lambda blob: blob * 2, "bytes: found 1,304"),
        # A layer more, in a header that says so.
        (
            lambda blob: blob[:24] + struct.pack("<I", 3) + blob[28:] + bytes(24 + 96 + 192),
            "bytes: found 964",
        ),
        (packed(0, "<I", 0x67677371), f"magic: found {0x67677371}, wanted {MAGIC}"),
        (packed(8, "<I", 0), "n_cells: found 0, wanted 1"),
        (packed(8, "<I", 2**32 - 1), "n_cells: found 4294967295, wanted 1"),
        (packed(16, "<I", 1), "n_sequences: found 1, wanted 0"),
        (packed(20, "<I", 1), "is_transposed: found 1, wanted 0"),
        (packed(24, "<I", 3), "n_layer: found 3, wanted 2"),
        (packed(24, "<I", 2**31), f"n_layer: found {2**31}, wanted 2"),
        # 1 is float16.
        (packed(FIRST_SHIFT, "<i", 1), "layer 0's type: found 1, wanted 0"),
        (packed(SECOND_SHIFT, "<i", -1), "layer 1's type: found -1, wanted 0"),
        (packed(FIRST_SHIFT + 4, "<Q", 48), "layer 0's n_bytes: found 48, wanted 96"),
        (packed(SECOND_SHIFT + 4, "<Q", 2**63), f"layer 1's n_bytes: found {2**63}, wanted 96"),
        (packed(FIRST_MATRIX, "<i", 2), "layer 0's type: found 2, wanted 0"),
        (packed(SECOND_MATRIX + 4, "<Q", 191), "layer 1's n_bytes: found 191, wanted 192"),
    ],
)
def test_a_blob_of_another_layout_is_refused(
    change: Callable[[bytes], bytes], message: str
) -> None:
    blob = change(blob_of(HEADERS["with a magic number"]))
    for use in (state_format().read, state_format().header):
        with pytest.raises(BackendUnavailableError) as caught:
            use(blob)
        text = str(caught.value)
        assert text.startswith("llama-cpp-python 9.9.9: ")
        assert f"({message}" in text
        assert "use --backend numba" in text
        assert text.isprintable()


def test_the_state_of_another_shape_and_the_same_size_is_refused() -> None:
    other = Hyperparameters("7", N_LAYER, 24, 96, 256, 1)
    with pytest.raises(BackendUnavailableError, match="layer 0's n_bytes: found 96, wanted 192"):
        LlamaStateFormat(other, "9.9.9").read(blob_of(CELL))
