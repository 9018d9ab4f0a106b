"""docs/adapters.md says what is true: its Python runs, and its options exist."""

import re
from pathlib import Path

import pytest

from rwkv_edge import Model
from rwkv_edge.apps.cli import main
from rwkv_edge.converters.convert import convert
from tests.converters.adapters.adapter_files import Save, lora_of, numbers

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "adapters.md").read_text(encoding="utf-8")


def test_its_python_runs(
    base: Path, save: Save, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save("lora.pth", lora_of(base, 4))
    save("state.pth", {f"blocks.{i}.att.time_state": numbers(i, 2, 64, 64) for i in range(3)})
    convert(base, base.with_name("tuned.gguf"))
    monkeypatch.chdir(base.parent)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    exec(compile("".join(blocks), "adapters.md", "exec"), {})
    with Model.load("mine.gguf", "reference") as mine, Model.load("both.gguf", "reference") as both:
        assert mine.fingerprint == both.fingerprint
        assert not mine.info.tuned_state
        assert both.info.tuned_state
    assert capsys.readouterr().out


def test_the_options_it_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("convert", "chat", "generate"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    # RWKV-PEFT's own option.
    named = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", PAGE)) - {"--quant"}
    assert len(named) > 6
    for option in named:
        assert option in shown, option
