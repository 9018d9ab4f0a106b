"""gguf-py is asked whether the numbers are right."""

import gguf

from rwkv_edge.gguf_types import DEFAULT_ALIGNMENT, SCALARS, ValueType


def test_types_have_the_numbers_of_gguf_py() -> None:
    assert {kind.name: int(kind) for kind in ValueType} == {
        kind.name: int(kind) for kind in gguf.GGUFValueType
    }
    assert gguf.GGUF_DEFAULT_ALIGNMENT == DEFAULT_ALIGNMENT


def test_all_types_but_texts_and_arrays_are_scalars() -> None:
    assert set(SCALARS) == set(ValueType) - {ValueType.STRING, ValueType.ARRAY}
