"""Tables and plots come from reports alone, and touch nothing else in the document."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from .draw import FORMAT, LONG, PERFORMANCE, Drawing, main


def speed(what: str, size: int, numba: float, llama: float) -> dict[str, Any]:
    return {
        "what": what,
        "size": size,
        "unit": "tok/s",
        "samples": {"numba": [numba], "llama": [llama]},
        "medians": {"numba": numba, "llama": llama},
        "ratio": numba / llama,
    }


REPORT: dict[str, Any] = {
    "format": FORMAT,
    "date": "2025-01-02T03:04:05+00:00",
    "machine": {"cpu": "znver3", "features": ["avx2"], "tier": "avx2", "tier_is_forced": False,
                "threads": 2, "memory": 8_000_000_000, "system": "Linux x86_64"},
    "versions": {"rwkv-edge": "0.1.0", "python": "3.11.7", "llama-cpp-python": "0.3.36"},
    "model": {"file": "24x2048-zeros90-q4_0.gguf", "hyperparameters": {}, "file_type": "Q4_0",
              "n_parameters": 1_527_000_000, "n_bytes": 10, "bytes_per_token": 800_000_000,
              "fingerprint": "0"},
    "settings": {"backend": "numba", "threads": None},
    "engines": {"numba": {}, "llama": {"repacks": True}},
    "measurements": [
        speed("decode", 64, 40.0, 16.0), speed("prefill", 512, 180.04, 60.0),
        speed("prefill", 32, 100.0, 50.0), speed("batch", 4, 90.0, 45.0),
    ],
    "start": {"cold": 16.04, "warm": 1.004, "compiling": 15.0, "warm_samples": [1.004]},
    "memory": {"steady": 1_100_000_000, "peak": None},
    "soak": {"n_tokens": 100_000, "start": 1_100_000_000, "end": 1_128_000_000, "highest": None},
    "bandwidth": {"bytes_per_second": 32e9, "buffer_bytes": 1, "threads": 2,
                  "decode_limit": 40.0, "decode_share": 1.0},
}  # fmt: skip
TEXT = """# Title

Before. <!-- a comment -->

<!-- draw decode -->
| old |
<!-- end -->
Between.
<!-- draw prefill -->
<!-- end -->
<!-- draw start -->
<!-- end -->
<!-- draw soak -->
<!-- end -->
<!-- draw decode_plot -->
<!-- end -->
<!-- draw onnx -->
<!-- end -->

After: 5 | 6
"""


def write_report(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**copy.deepcopy(REPORT), **changes}), encoding="utf-8")
    return path


def drawn(folder: Path, *reports: Path) -> str:
    document = folder / "performance.md"
    if not document.exists():
        document.write_text(TEXT, encoding="utf-8")
    main([*map(str, reports), "--document", str(document)])
    return document.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def with_matplotlib() -> None:
    pytest.importorskip("matplotlib")


def test_what_is_marked_is_replaced_and_everything_else_stays(tmp_path: Path) -> None:
    text = drawn(tmp_path, write_report(tmp_path / "a.json"))
    row = "| 24x2048-zeros90-q4_0 | 1.5B | avx2 | 40.0 | 16.0 | 2.50 | 32.0 | 40.0 | 100 % |"
    assert row in text.splitlines()
    assert "old" not in text
    assert "![decode, tokens a second](performance/decode.svg)" in text
    emptied = re.compile(r"(<!-- draw \w+ -->\n).*?(<!-- end -->)", re.DOTALL)
    assert emptied.sub(r"\1\2", text) == emptied.sub(r"\1\2", TEXT)


def test_rows_are_sorted_by_model_and_by_size(tmp_path: Path) -> None:
    small = {**REPORT["model"], "file": "12x768-zeros90-q4_0.gguf", "n_parameters": 191_000_000}
    text = drawn(
        tmp_path, write_report(tmp_path / "a.json"), write_report(tmp_path / "b.json", model=small)
    )
    prefill = [line.split(" | ") for line in text.split("draw prefill")[1].splitlines()[3:7]]
    assert [(cells[1], cells[3]) for cells in prefill] == [
        ("0.19B", "32"),
        ("0.19B", "512"),
        ("1.5B", "32"),
        ("1.5B", "512"),
    ]


def test_running_twice_changes_nothing(tmp_path: Path) -> None:
    report = write_report(tmp_path / "a.json")
    first = drawn(tmp_path, report)
    plots = {path.name: path.read_bytes() for path in (tmp_path / "performance").iterdir()}
    assert set(plots) == {"decode.svg", "prefill.svg", "batch.svg"}
    assert drawn(tmp_path, report) == first
    for path in (tmp_path / "performance").iterdir():
        assert path.read_bytes() == plots[path.name], path.name


def test_what_was_left_out_is_a_dash(tmp_path: Path) -> None:
    alone = [{**speed("decode", 64, 40.0, 1.0), "medians": {"numba": 40.0}, "ratio": None}]
    report = write_report(
        tmp_path / "a.json",
        engines={"numba": {}}, measurements=alone, start=None, soak=None, bandwidth=None,
    )  # fmt: skip
    text = drawn(tmp_path, report)
    assert "| avx2 | 40.0 | - | - | - | - | - |" in text
    assert "| avx2 | - | - | - | 1,100 | - |" in text


def test_a_report_has_no_row_where_it_has_nothing_to_say(tmp_path: Path) -> None:
    complete = write_report(tmp_path / "a.json")
    assert "| avx2 | 100,000 | 1,100 | 1,128 | - |" in drawn(tmp_path, complete)
    decode = {"measurements": [speed("decode", 64, 40.0, 16.0)], "start": None, "memory": None}
    short = write_report(tmp_path / "b.json", **decode, soak=None)
    # A row of the decode table, and nothing of starting or a soak.
    assert drawn(tmp_path, short).count("| 24x2048-zeros90-q4_0 |") == 1


def test_three_engines_have_a_table_of_their_own(tmp_path: Path) -> None:
    three = {**speed("decode", 64, 40.0, 16.0)}
    three["medians"] = {**three["medians"], "onnx": 30.0}
    engines: dict[str, Any] = {"numba": {}, "llama": {"repacks": True}, "onnx": {}}
    report = write_report(tmp_path / "b.json", engines=engines, measurements=[three])
    text = drawn(tmp_path, write_report(tmp_path / "a.json"), report)
    name = "| 24x2048-zeros90-q4_0 | 1.5B | avx2 |"
    assert f"{name} decode, 64 tokens | 40.0 | 30.0 | 16.0 | 0.75 |" in text.splitlines()
    # Nothing of it in the other tables.
    assert text.count(name) == drawn(tmp_path, tmp_path / "a.json").count(name) + 1


def test_a_foreign_report_or_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no report of format"):
        drawn(tmp_path, write_report(tmp_path / "a.json", format=99))
    (tmp_path / "performance.md").write_text("<!-- draw abacus -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="abacus"):
        drawn(tmp_path, write_report(tmp_path / "a.json"))


@pytest.mark.parametrize("drawing", [PERFORMANCE, LONG])
def test_the_document_has_a_place_for_every_table_and_plot(drawing: Drawing) -> None:
    text = drawing.document.read_text(encoding="utf-8")
    for name in (*drawing.tables, *(f"{plotted}_plot" for plotted in drawing.captions)):
        assert text.count(f"<!-- draw {name} -->\n") == 1, name
    assert text.count("<!-- draw ") == text.count("<!-- end -->")


def point(n_tokens: int, resident: int | None, decode: float) -> dict[str, Any]:
    return {"n_tokens": n_tokens, "resident": resident, "peak": 1, "decode": decode, "read": 99.6}


GROWTH = {
    **{key: REPORT[key] for key in ("format", "date", "machine", "versions", "model")},
    "kind": "memory",
    "transformer": {},
    "engines": {
        "numba": [point(256, 270_000_000, 120.04), point(512, 270_000_000, 121.0)],
        "transformer": [point(256, None, 80.0)],
    },
}
DRIFT = {
    **{key: REPORT[key] for key in ("format", "date", "machine", "versions", "model")},
    "kind": "drift",
    "rows": [{"n_tokens": 1024, "largest": 2.94e-7, "median": 1e-7, "same_best": 0.9996,
              "resident": 217_834_000, "seconds": 3.0}],
}  # fmt: skip
LONG_TEXT = """<!-- draw growth -->
<!-- end -->
<!-- draw drift -->
<!-- end -->
<!-- draw growth_plot -->
<!-- end -->
"""


def test_growth_and_drift_are_drawn_into_one_document(tmp_path: Path) -> None:
    document = tmp_path / "long-documents.md"
    document.write_text(LONG_TEXT, encoding="utf-8")
    reports = []
    for name, report in (("growth", GROWTH), ("drift", DRIFT)):
        reports.append(tmp_path / f"{name}.json")
        reports[-1].write_text(json.dumps(report), encoding="utf-8")
    main([*map(str, reports), "--document", str(document)])
    lines = document.read_text(encoding="utf-8").splitlines()
    model = "24x2048-zeros90-q4_0"
    assert f"| {model} | 1.5B | 256 | 270 | 120.0 | 100 | - | 80.0 | 100 |" in lines
    assert f"| {model} | 1.5B | 512 | 270 | 121.0 | 100 | - | - | - |" in lines
    assert f"| {model} | 1,024 | 2.9e-07 | 1.0e-07 | 99.96 % | 217.83 |" in lines
    assert "![memory and speed by tokens seen](long-documents/growth.svg)" in lines
    assert (tmp_path / "long-documents" / "growth.svg").stat().st_size > 1000


def test_a_model_that_was_measured_alone_has_dashes(tmp_path: Path) -> None:
    document = tmp_path / "long-documents.md"
    document.write_text(LONG_TEXT, encoding="utf-8")
    alone = {**GROWTH, "transformer": None, "engines": {"numba": [point(256, 1_000_000, 1.0)]}}
    (tmp_path / "a.json").write_text(json.dumps(alone), encoding="utf-8")
    main([str(tmp_path / "a.json"), "--document", str(document)])
    assert "| 256 | 1 | 1.0 | 100 | - | - | - |" in document.read_text(encoding="utf-8")


def test_reports_of_two_documents_are_refused(tmp_path: Path) -> None:
    (tmp_path / "growth.json").write_text(json.dumps(GROWTH), encoding="utf-8")
    with pytest.raises(SystemExit, match="two documents"):
        drawn(tmp_path, write_report(tmp_path / "a.json"), tmp_path / "growth.json")
