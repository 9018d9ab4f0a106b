"""llama.cpp's blob of one sequence's state, taken apart into the canonical arrays and put together.

A header; then each layer's token shifts, that of time mix before that of channel mix; then each
layer's matrices. Before each of these arrays stand its ggml type and its size in bytes. Source:
llama.cpp's `state_write` in llama-memory-recurrent.cpp, `state_seq_get_data` in llama-context.cpp,
and the graphs in models/rwkv6.cpp and models/rwkv7.cpp.
"""

import numpy as np
import numpy.typing as npt

from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.errors import BackendUnavailableError
from rwkv_edge.hyperparameters import Hyperparameters

# The axes of the blob's matrices, (layer, head, row, column), in the canonical order of `wkv`.
# ggml runs over RWKV-6 by rows of one key and over RWKV-7 by rows of one value, as we do.
WKV_AXES = {
    "6": (0, 1, 2, 3),
    "7": (0, 1, 2, 3),
}

# One sequence is one cell, whose own list of sequences is left out.
CELL = [
    ("n_cells", "<u4"),
    ("position", "<i4"),
    ("n_sequences", "<u4"),
    ("is_transposed", "<u4"),
    ("n_layer", "<u4"),
]
# llama-cpp-python 0.3.36 begins with a magic number, 0.3.16 with the cell.
HEADERS = (
    np.dtype([("magic", "<u4"), ("sequence", "<i4"), *CELL]),
    np.dtype(CELL),
)
MAGIC = 0xAF143CD8
GGML_F32 = 0
# Newest of those whose blobs were looked at.
KNOWN_RELEASE = "0.3.36"


def layer_dtype(n_values: int) -> np.dtype[np.void]:
    """One layer's array behind its ggml type and size in bytes."""
    return np.dtype([("type", "<i4"), ("n_bytes", "<u8"), ("values", "<f4", (n_values,))])


class LlamaStateFormat:
    """Reads and writes the blobs of one model's states.

    release: which llama-cpp-python wrote them, for messages. What differs in any count from the
    layouts known here is refused with BackendUnavailableError.
    """

    def __init__(self, hyperparameters: Hyperparameters, release: str) -> None:
        self._hp = hp = hyperparameters
        self._release = release
        self._shifts = layer_dtype(2 * hp.n_embd)
        self._matrices = layer_dtype(hp.n_embd * hp.head_size)
        self._axes = WKV_AXES[hp.version]

    @property
    def n_body_bytes(self) -> int:
        """Bytes after the header."""
        return self._hp.n_layer * (self._shifts.itemsize + self._matrices.itemsize)

    def read(self, blob: bytes) -> StateArrays:
        """The canonical arrays, as copies."""
        hp = self._hp
        shifts, matrices = self._parts(blob)
        shift = shifts["values"].reshape(hp.n_layer, 2, hp.n_embd)
        wkv = matrices["values"].reshape(hp.n_layer, hp.n_head, hp.head_size, hp.head_size)
        return {
            "att_x": float32_copy(shift[:, 0]),
            "wkv": float32_copy(wkv.transpose(self._axes)),
            "ffn_x": float32_copy(shift[:, 1]),
        }

    def header(self, blob: bytes) -> bytes:
        """The header of a blob that llama.cpp wrote, all of which is read exactly, for `write`."""
        self._parts(blob)
        return blob[: len(blob) - self.n_body_bytes]

    def write(self, arrays: StateArrays, header: bytes) -> bytes:
        """The blob of these arrays; a sequence that stands where the header's own did.

        header: of a blob that llama.cpp wrote, so that nothing is handed to it in a layout that
        it has not shown.
        """
        hp = self._hp
        shifts = np.zeros(hp.n_layer, self._shifts)
        shifts["values"] = np.concatenate([arrays["att_x"], arrays["ffn_x"]], axis=1)
        matrices = np.zeros(hp.n_layer, self._matrices)
        wkv = arrays["wkv"].transpose(np.argsort(self._axes))
        matrices["values"] = wkv.reshape(hp.n_layer, -1)
        for layers in (shifts, matrices):
            layers["type"] = GGML_F32
            layers["n_bytes"] = layers.dtype["values"].itemsize
        return b"".join((header, shifts.tobytes(), matrices.tobytes()))

    def _parts(self, blob: bytes) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
        """Each layer's shifts and each layer's matrices; every count before them is checked."""
        start = self._checked_header(blob).itemsize
        shifts = self._layers(blob, self._shifts, start)
        return shifts, self._layers(blob, self._matrices, start + shifts.nbytes)

    def _checked_header(self, blob: bytes) -> np.dtype[np.void]:
        """Which of the known headers the blob has."""
        n_bytes = len(blob) - self.n_body_bytes
        fitting = [header for header in HEADERS if header.itemsize == n_bytes]
        if not fitting:
            sizes = " or ".join(f"{self.n_body_bytes + header.itemsize:,}" for header in HEADERS)
            raise self._unknown("bytes", f"{len(blob):,}", sizes)
        header = np.frombuffer(blob, fitting[0], 1)[0]
        wanted = {
            "magic": MAGIC,
            "n_cells": 1,
            "n_sequences": 0,
            "is_transposed": 0,
            "n_layer": self._hp.n_layer,
        }
        for name in fitting[0].names or ():
            if name in wanted and header[name] != wanted[name]:
                raise self._unknown(name, int(header[name]), wanted[name])
        return fitting[0]

    def _layers(self, blob: bytes, dtype: np.dtype[np.void], start: int) -> npt.NDArray[np.void]:
        """Each layer's array out of a blob of the right size."""
        layers = np.frombuffer(blob, dtype, self._hp.n_layer, start)
        wanted = {"n_bytes": dtype["values"].itemsize, "type": GGML_F32}
        for name, value in wanted.items():
            wrong = np.flatnonzero(layers[name] != value)
            if wrong.size:
                layer = int(wrong[0])
                raise self._unknown(f"layer {layer}'s {name}", int(layers[name][layer]), value)
        return layers

    def _unknown(self, what: str, found: object, wanted: object) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"llama-cpp-python {self._release}: it writes states in a layout that is unknown here "
            f"({what}: found {found}, wanted {wanted}), so they cannot be moved to or from it; "
            f"use --backend numba, or install llama-cpp-python {KNOWN_RELEASE}"
        )


def float32_copy(values: npt.NDArray[np.float32]) -> Float32Array:
    """A contiguous copy of its own, in the machine's byte order."""
    return np.array(values, np.float32, order="C")
