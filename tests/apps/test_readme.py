"""The README's commands exist, and its Python runs."""

import re
import shutil
from pathlib import Path

import pytest

from .conftest import Run

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_its_python_runs_from_top_to_bottom(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(gguf, tmp_path / "model-q4.gguf")
    (tmp_path / "book.txt").write_text("It was the best of books. " * 20)
    monkeypatch.chdir(tmp_path)
    code = "".join(blocks("python"))
    assert code.count("model") > 10
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > 200


def test_every_command_and_option_it_names_exists(run: Run) -> None:
    text = README.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `rwkv-edge (\w+)[^|]*\|(.*)\|$", text, re.MULTILINE)
    assert len(rows) == 9
    for command, description in rows:
        shown = run(command, "--help").out
        for option in re.findall(r"(?<![\w-])(--?[a-z][\w-]*)", description):
            assert option in shown, (command, option)
