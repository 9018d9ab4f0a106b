"""Types of a GGUF's metadata values.

Stated here although gguf-py has them: importing it takes longer than reading a header does.
"""

from enum import IntEnum

DEFAULT_ALIGNMENT = 32


class ValueType(IntEnum):
    """What stands before a value. Source: the GGUF specification, `gguf_metadata_value_type`."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# Those of fixed size, as the module `struct` names them.
SCALARS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
    ValueType.BOOL: "?",
}
# A key's type, and that of its items where it is an array.
ValueTypes = tuple[ValueType, ValueType | None]
