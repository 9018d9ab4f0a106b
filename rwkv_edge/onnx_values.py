"""What the metadata of an ONNX say: texts there, JSON of what a GGUF's key would hold."""

import json
import math
import re
from typing import NoReturn

import numpy as np
import numpy.typing as npt

# A list of nothing but numbers, as far as its characters say.
NUMBERS = re.compile(r"\s*\[\s*([-0-9][-+.0-9eE,\s]*)\]\s*")
# What begins with these holds further values.
HOLDER = re.compile(r"\s*[\[{]")
# What is read of such a list at once: its items become Python's objects on the way.
PIECE_CHARS = 1 << 20
# The numbers that a GGUF can hold.
LEAST_INTEGER, MOST_INTEGER = -(1 << 63), (1 << 64) - 1


def n_values(text: str) -> int:
    """The most values that a JSON text can make, counted without making them.

    A text by itself and a list of numbers count as one: they take memory as the file does.
    """
    if not HOLDER.match(text) or NUMBERS.fullmatch(text):
        return 1
    return 1 + text.count(",") + text.count("[") + text.count("{")


def decoded(text: str) -> object:
    """What a JSON text says, in the types that `GgufFile.metadata` has.

    That is a number, a bool, a text, a list of raw byte strings, or an array of numbers or bools
    (of uint8 where all are bytes, of int32 where those suffice). Anything else, and what is no
    JSON, stays the text that it is.
    """
    numbers = NUMBERS.fullmatch(text)
    if numbers is not None:
        array = array_of(text, *numbers.span(1))
        return text if array is None else array
    try:
        found = json.loads(text, parse_constant=refuse)
    # Deep nesting recurses; a number of thousands of digits is refused by Python.
    except (ValueError, RecursionError):
        return text
    kept = value_of(found)
    return text if kept is None else kept


def value_of(found: object) -> object:
    """Parsed JSON in the types of a GGUF; None for what it cannot hold. A list is emptied."""
    if isinstance(found, bool):
        return found
    if isinstance(found, int):
        return found if LEAST_INTEGER <= found <= MOST_INTEGER else None
    if isinstance(found, float):
        return found if math.isfinite(found) else None
    try:
        if isinstance(found, str):
            # Half an emoji is no text that can be shown or saved.
            found.encode()
            return found
        return list_of(found) if isinstance(found, list) else None
    except UnicodeEncodeError:
        return None


def list_of(found: list[object]) -> object:
    """A parsed list in the types of a GGUF; None for a mixed one, or one of anything else."""
    if found and all(isinstance(item, bool) for item in found):
        return np.array(found, np.bool_)
    # In place: of long texts there is no room for two lists.
    for i, item in enumerate(found):
        if not isinstance(item, str):
            return None
        found[i] = item.encode()
    return found


def array_of(text: str, start: int, end: int) -> npt.NDArray[np.generic] | None:
    """The numbers between two places of a text, with commas between; None if they are none."""
    parts = []
    while start < end:
        stop = text.find(",", start + PIECE_CHARS, end)
        stop = end if stop < 0 else stop
        try:
            part = np.array(json.loads(f"[{text[start:stop]}]"))
        # NumPy refuses what does not fit in 64 bits.
        except (ValueError, OverflowError):
            return None
        if part.dtype.kind not in "iuf" or not np.isfinite(part).all():
            return None
        parts.append(narrowed(part))
        start = stop + 1
    return np.concatenate(parts)


def narrowed(numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Bytes as uint8, other whole numbers as int32 if they fit; the rest as it is."""
    if numbers.dtype.kind in "iu":
        least, most = int(numbers.min()), int(numbers.max())
        for dtype in (np.uint8, np.int32):
            if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
                return numbers.astype(dtype)
    return numbers


def refuse(name: str) -> NoReturn:
    """NaN and infinities are no JSON, though Python reads them."""
    raise ValueError(name)
