"""rwkv.cpp's files, written after its FILE_FORMAT.md, with gguf-py's blocks."""

import struct
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

from tests.converters.foreign_names import Tensors

MAGIC = 0x67676D66
TYPES = {"FP32": 0, "FP16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 7, "Q5_1": 8, "Q8_0": 9}
KEPT_IN_FP32 = (".time_", ".k_k", ".k_a", ".r_k", ".x_rwkvag", ".x_k", ".w0", ".a0", ".v0")


def encoded(name: str, tensor: np.ndarray, kind: str) -> tuple[str, bytes]:  # type: ignore[type-arg]
    """The type of one parameter in a file of type `kind`, and its bytes."""
    if kind not in ("FP32", "FP16"):
        is_matrix = tensor.ndim == 2 and name not in ("emb.weight", "head.weight")
        if not is_matrix or tensor.shape[1] % 32:
            return encoded(name, tensor, "FP16")
        blocks = quants.quantize(tensor, GGMLQuantizationType[kind])
        return kind, blocks.tobytes()
    is_half = tensor.ndim > 1 and not any(part in name for part in KEPT_IN_FP32)
    if kind == "FP16" and is_half:
        return "FP16", tensor.astype("<f2").tobytes()
    return "FP32", tensor.astype("<f4").tobytes()


def parameter(name: str, shape: tuple[int, ...], kind: int, data: bytes) -> bytes:
    key = name.encode()
    head = struct.pack("<iii", len(shape), len(key), kind)
    return head + struct.pack(f"<{len(shape)}i", *reversed(shape)) + key + data


def header(version: int, n_vocab: int, n_embd: int, n_layer: int, kind: int) -> bytes:
    return struct.pack("<iiiiii", MAGIC, version, n_vocab, n_embd, n_layer, kind)


def write_rwkv_cpp(path: Path, tensors: Tensors, kind: str = "FP32", version: int = 101) -> None:
    n_layer = 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("blocks."))
    with open(path, "wb") as file:
        file.write(header(version, *tensors["emb.weight"].shape, n_layer, TYPES[kind]))
        for name, tensor in tensors.items():
            used, data = encoded(name, tensor, kind)
            file.write(parameter(name, tensor.shape, TYPES[used], data))
