"""docs/compat.md says what is true."""

import re
import shutil
from pathlib import Path

import pytest

from rwkv_edge import RwkvEdgeError
from rwkv_edge.compat.strategy import layers_of, parse_strategy, runnable_weight_type

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "compat.md").read_text(encoding="utf-8")


def test_its_python_runs(builtin_pth, builtin_vocabulary, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    shutil.copy(builtin_pth, tmp_path / "model.pth")
    shutil.copy(builtin_vocabulary, tmp_path / "model.vocab.txt")
    monkeypatch.chdir(tmp_path)
    # The built-in model knows fewer tokens than World has.
    code = code.replace('"rwkv_vocab_v20230424"', '"model.vocab.txt"')
    exec(compile(code, "compat.md", "exec"), {})
    assert "Converting model.pth to Q8_0" in capsys.readouterr().err


def test_its_imports_exist():
    imports = re.findall(r"`(from rwkv_edge\.compat\.[^`]*)`", PAGE)
    assert len(imports) == 3
    for line in imports:
        exec(line, {})


def test_its_strategies_are_accepted_and_refused_as_it_says():
    rows = re.findall(r"^\| (`(?:cpu|cuda|mps|dml).*?) \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 8
    for strategies, what in rows:
        for strategy in re.findall(r"`([^`]+)`", strategies):
            layers = layers_of(parse_strategy(strategy), 24)
            if what.startswith("refused"):
                with pytest.raises(RwkvEdgeError):
                    runnable_weight_type(strategy, layers)
            else:
                assert what.startswith(runnable_weight_type(strategy, layers))
