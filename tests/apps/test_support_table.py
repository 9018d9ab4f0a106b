"""The README's tables of what runs are what the registries say today."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rwkv_edge.apps import support_table
from rwkv_edge.apps.support_table import BEGIN, END, MODULE, support_tables, update
from rwkv_edge.converters import arch, checkpoints, row_encoder
from rwkv_edge.converters.weight_types import FILE_TYPES
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.quant import QUANT_FORMATS
from rwkv_edge.runtime.backends import BACKENDS, obstacles

README = Path(__file__).resolve().parents[2] / "README.md"


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, without what marks code."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_the_readme_is_current() -> None:
    command = [sys.executable, "-m", MODULE, "--check", str(README)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_everything_registered_has_a_row() -> None:
    found = rows(support_tables())
    first = [row[0] for row in found]
    assert set(arch.CHECKPOINT_READERS) | set(QUANT_FORMATS) | set(FILE_TYPES) <= set(first)
    for row in found:
        if row[0] == "RWKV version":
            assert row[2:] == list(BACKENDS)
        if row[0] == "Weight type in a GGUF":
            assert row[2:-1] == list(BACKENDS)


def test_a_stale_readme_is_one_line_until_it_is_written_anew(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    stale = text.replace("| 7a |", "| 7z |")
    assert stale != text
    path = tmp_path / "README.md"
    path.write_text(stale, encoding="utf-8")
    command = [sys.executable, "-m", MODULE, str(path)]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"rwkv-edge: {path}: its tables are not what the registries say; "
        f"run python -m {MODULE} {path}\n"
    )
    assert path.read_text(encoding="utf-8") == stale
    subprocess.run(command, check=True)
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}"])
def test_a_file_without_the_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(str(path))):
        update(path, only_check=False)
    assert path.read_text() == text


def test_what_leaves_a_registry_leaves_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, key in (
        (arch, "CHECKPOINT_READERS", "5.1"),
        (row_encoder, "ENCODERS", QUANT_FORMATS["Q4_0"]),
        (obstacles, "OBSTACLES", "reference"),
    ):
        # Copies, because what is put back would come last.
        rest = {k: value for k, value in getattr(module, name).items() if k != key}
        monkeypatch.setattr(module, name, rest)
    found = rows(support_tables())
    assert not [row for row in found if row[0] == "5.1"]
    assert ["RWKV version", "GGUF architecture", "numba", "llama", "onnx"] in found
    assert ["Q4_0", "4.5", "yes", "yes", "yes", "no"] in found
    with pytest.raises(RwkvEdgeError, match="are not what the registries say"):
        update(README, only_check=True)


def test_a_new_container_has_a_row_without_a_change_here(monkeypatch: pytest.MonkeyPatch) -> None:
    new = SimpleNamespace(title="a clay tablet", recognised_by="its weight")
    monkeypatch.setattr(checkpoints, "CONTAINERS", (*checkpoints.CONTAINERS, new))
    assert ["a clay tablet", "its weight"] in rows(support_tables())


def test_an_engine_that_cannot_is_said_in_both_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {**obstacles.OBSTACLES, "abacus": lambda hp, formats: "too few beads"}
    monkeypatch.setattr(obstacles, "OBSTACLES", more)
    found = rows(support_tables())
    assert ["7", "rwkv7", "yes", "yes", "yes", "yes", "no"] in found
    assert ["F32", "32", "yes", "yes", "yes", "yes", "no", "yes"] in found


def test_sizes_are_those_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support_table, "EXAMPLE_LAYERS", 1)
    (row,) = [row for row in rows(support_tables()) if row[0] == "F32" and row[1] == "F32"]
    # Embedding and head, and 12.5 matrices of the width in the layer.
    n_weights = 2 * 65536 * 2048 + 12.5 * 2048**2
    size, unit = row[2].split()
    assert unit == "GB"
    assert float(size) == pytest.approx(4 * n_weights / 1e9, rel=0.02)
