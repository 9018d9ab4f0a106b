"""One weight format: the dtype of a block, and plain numpy that defines how it codes numbers."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rwkv_edge.errors import FormatError, UnsupportedModelError

Float32Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

QUANT_FORMATS: dict[str, type["QuantFormat"]] = {}


class QuantFormat(ABC):
    """A way to store rows of weights. Subclasses are never instantiated; they register by name.

    block: the only statement of the layout, one record for `block_len` consecutive weights.
    ggml_type: the number that names this format in a GGUF.
    """

    block: ClassVar[np.dtype[Any]]
    block_len: ClassVar[int]
    ggml_type: ClassVar[int]

    def __init_subclass__(cls) -> None:
        """Register the format; a second one of the same name or number is our own bug."""
        for field in ("block", "block_len", "ggml_type"):
            assert hasattr(cls, field), f"{cls.__name__} does not state its {field}"
        for other in QUANT_FORMATS.values():
            assert cls.ggml_type != other.ggml_type, f"{cls.__name__} repeats {other.__name__}"
        assert cls.__name__ not in QUANT_FORMATS, cls.__name__
        QUANT_FORMATS[cls.__name__] = cls

    @classmethod
    def row_bytes(cls, n_columns: int) -> int:
        """Bytes of one row; raises FormatError if the row is not whole blocks."""
        if n_columns % cls.block_len:
            raise FormatError(
                f"{cls.__name__} needs rows of a multiple of {cls.block_len}, not {n_columns}"
            )
        return n_columns // cls.block_len * cls.block.itemsize

    @classmethod
    def blocks(cls, raw: Bytes, n_columns: int) -> npt.NDArray[Any]:
        """View raw bytes as (rows, blocks of a row) records."""
        return raw.reshape(-1, cls.row_bytes(n_columns)).view(cls.block)

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """(rows, columns) float32 to (rows, row_bytes(columns)) uint8.

        Raises UnsupportedModelError for a format that is read but not written.
        """
        raise UnsupportedModelError(f"{cls.__name__} is read here, but not written")

    @classmethod
    def is_writable(cls) -> bool:
        """True if the format says how it is encoded."""
        return cls.encode.__func__ is not QuantFormat.encode.__func__  # type: ignore[attr-defined]

    @classmethod
    @abstractmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Raw bytes of whole rows to (rows, n_columns) float32, to the bit what ggml gives."""


def quant_format_of(ggml_type: int) -> type[QuantFormat] | None:
    """The format that a GGUF calls by this number, or None if we have none."""
    return next((q for q in QUANT_FORMATS.values() if q.ggml_type == ggml_type), None)


def inverse_of_scale(scale: Float32Array) -> Float32Array:
    """1 / scale, or 0 where that is infinite: all codes are then zero, as the scale itself is.

    gguf-py goes on with infinity below 2^-128, and its codes then depend on the machine.
    """
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Float32Array = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def half_of_scale(scale: Float32Array) -> npt.NDArray[np.uint16]:
    """float16 bits, nearest even. A scale past 65504 becomes infinite, which converters refuse."""
    with np.errstate(over="ignore"):
        return scale.astype(np.float16).view(np.uint16)
