"""Adapters as RWKV-PEFT saves them, of random numbers, and what they should give."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter

Float64Array = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]
Save = Callable[[str, Mapping[str, npt.NDArray[Any]]], Path]
DTYPES = {"float32": "float32", "float16": "float16", "uint16": "bfloat16"}


def write_pth(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> Path:
    """A `.pth` of these tensors; an array of uint16 is the bits of bfloat16."""
    with PthWriter(path) as writer:
        for key, array in tensors.items():
            data = np.ascontiguousarray(array)
            writer.add(key, DTYPES[str(data.dtype)], data.shape, [data.tobytes()])
    return path


def matrices_of(path: Path, part: str = "") -> dict[str, tuple[int, ...]]:
    """The modules that RWKV-PEFT adapts, by name without `.weight`, and their shapes."""
    with open_checkpoint(path) as checkpoint:
        return {
            name.removesuffix(".weight"): shape
            for name, shape in checkpoint.shapes().items()
            if name.startswith("blocks.") and len(shape) == 2 and name.endswith(".weight")
            if part in name
        }


def numbers(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Random ones as large as trained ones."""
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


def lora_of(base: Path, rank: int, part: str = "", seed: int = 0, prefix: str = "") -> Arrays:
    """A pair for each matrix of the base; prefix: "init_" for the beginning of a PiSSA."""
    pairs: Arrays = {}
    for i, (name, (n_out, n_in)) in enumerate(matrices_of(base, part).items()):
        pairs[f"{name}.{prefix}lora_A"] = numbers(seed + 2 * i, rank, n_in)
        pairs[f"{name}.{prefix}lora_B"] = numbers(seed + 2 * i + 1, n_out, rank)
    return pairs


def weights_of(path: Path, name: str) -> Float64Array:
    """One tensor of a checkpoint."""
    with open_checkpoint(path) as checkpoint:
        return checkpoint.read(name).astype(np.float64)
