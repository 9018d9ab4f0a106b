"""The benchmark of encoders measures every quantized format, in both engines."""

import pytest

from rwkv_edge.quant import QUANT_FORMATS
from tests.benchmarks import encoders


def test_all_quantized_formats_are_measured() -> None:
    assert set(encoders.FORMATS) == {n for n, q in QUANT_FORMATS.items() if q.block_len > 1}


def test_tables_have_a_row_for_each_format() -> None:
    pytest.importorskip("llama_cpp")
    errors = encoders.error_table(("Q8_0", "Q4_K"), n_rows=4)
    assert [line.split(" | ")[0] for line in errors[2:]] == ["| Q8_0", "| Q4_K"]
    assert {line.count("|") for line in errors} == {errors[0].count("|")}
    speeds = encoders.speed_table(("Q8_0",), n_rows=8, n_rounds=1)
    assert all(float(cell) >= 0 for cell in speeds[2].split("|")[2:4])
