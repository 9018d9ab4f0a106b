"""Models are made once, and each leaves a report that names it and its tier."""

import json
import sys
from pathlib import Path

import pytest

from rwkv_edge.apps.benchmark import PARTS
from rwkv_edge.runtime.simd.cpu import present_tiers, tier

from .run import main


def test_each_model_and_tier_leaves_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    tiers = list(dict.fromkeys([tier(), present_tiers()[-1]]))
    chosen = ["--shapes", "1x64", "--types", "Q8_0", "--tiers", ",".join(tiers), "--zeros", "0.5",
              "--n-vocab", "256"]  # fmt: skip
    options = ["--", "--skip", ",".join(PARTS), "--threads", "1"]
    folders = ["--models", str(models), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["run.py", *chosen, *folders, *options])
    main()
    reports = {path.name: json.loads(path.read_text()) for path in out.iterdir()}
    assert set(reports) == {f"1x64x256-zeros50-q8_0-{name}.json" for name in tiers}
    for name in tiers:
        report = reports[f"1x64x256-zeros50-q8_0-{name}.json"]
        assert report["machine"]["tier"] == name
        assert report["settings"]["threads"] == 1
    made = {path: path.stat().st_mtime_ns for path in models.iterdir()}
    main()
    assert {path: path.stat().st_mtime_ns for path in models.iterdir()} == made
