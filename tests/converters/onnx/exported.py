"""Reads exported models by the onnx package and plain numpy, nothing of ours."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Exported:
    """arrays: all initializers; keys: the metadata, out of their JSON."""

    model: "onnx.ModelProto"
    arrays: dict[str, Array]
    keys: dict[str, Any]

    def weights(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor as float32, whatever it is stored as."""
        if name in self.arrays:
            # bfloat16 is a type of ml_dtypes, which numpy widens.
            return self.arrays[name].astype(np.float32)
        codes, scales = self.arrays[f"{name}.codes"], self.arrays[f"{name}.scales"]
        assert codes.dtype == np.uint8
        assert scales.dtype == np.float32
        n_rows, n_blocks = scales.shape
        flat = codes.reshape(n_rows, n_blocks, -1)
        if flat.shape[-1] == 16:
            # Two in a byte, the first in its low half.
            flat = np.stack([flat & 15, flat >> 4], axis=-1).reshape(n_rows, n_blocks, 32)
            zero = 8
        else:
            assert flat.shape[-1] == 32
            zero = 128
        decoded = (flat.astype(np.float32) - zero) * scales[..., None]
        return decoded.reshape(n_rows, -1)


def read_exported(path: Path) -> Exported:
    """A model, with its data file if it has one."""
    model = onnx.load_model(path)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return Exported(model, arrays, {e.key: json.loads(e.value) for e in model.metadata_props})
