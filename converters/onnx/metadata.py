"""The keys of a GGUF as the `metadata_props` of an ONNX model: texts, each a value in JSON."""

import json
import math

import gguf
import numpy as np
from gguf.gguf_writer import GGUFValue

from rwkv_edge.converters.gguf_file import GgufHeader, writer_of
from rwkv_edge.fingerprint import N_DIGITS
from rwkv_edge.onnx_model_file import FINGERPRINT_KEY, FORMAT, FORMAT_KEY

# What stands in the place of a fingerprint that is not known yet.
UNKNOWN_FINGERPRINT = "0" * N_DIGITS


def metadata_props(header: GgufHeader, fingerprint: str = UNKNOWN_FINGERPRINT) -> dict[str, str]:
    """Every key that `write_header` would write, with the value that a GGUF's reader finds.

    fingerprint: whatever its digits are, the length of the whole does not depend on it.
    """
    assert len(fingerprint) == len(UNKNOWN_FINGERPRINT)
    writer = writer_of(header)
    props = {key: json_text(read_back(value)) for key, value in writer.kv_data[0].items()}
    return props | {FORMAT_KEY: json_text(FORMAT), FINGERPRINT_KEY: json_text(fingerprint)}


def json_text(value: object) -> str:
    """A value on one line, as short as can be."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read_back(stored: GGUFValue) -> object:
    """What a reader of the GGUF finds in a key: numbers as their type holds them, bytes as numbers.

    JSON knows texts alone, so bytes that are no UTF-8 become `\\xHH`: in a list of tokens that is
    how a vocabulary writes them.
    """
    value = stored.value
    if stored.type != gguf.GGUFValueType.ARRAY:
        return number(value, stored.type) if isinstance(value, float) else value
    if isinstance(value, bytes):
        return list(value)
    kind = stored.sub_type
    if kind is None:
        kind = gguf.GGUFValueType.get_type(value[0])
    return [
        item.decode("utf-8", "backslashreplace")
        if isinstance(item, bytes)
        else number(item, kind)
        if isinstance(item, float)
        else item
        for item in value
    ]


def number(value: float, kind: gguf.GGUFValueType) -> float | None:
    """As many digits as the type holds; None for what JSON has no words for."""
    held = value if kind == gguf.GGUFValueType.FLOAT64 else float(np.float32(value))
    return held if math.isfinite(held) else None
