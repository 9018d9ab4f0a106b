"""docs/onnx.md says what is true: its programs run, with onnxruntime alone, and its tables fit."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rwkv_edge import Model
from rwkv_edge.apps.cli import main
from rwkv_edge.arch import architecture_of
from rwkv_edge.builtin import checkpoint_path
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.converters.synthetic.versions import SYNTHETIC_VERSIONS
from tests.docs.conftest import Export

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "onnx.md").read_text(encoding="utf-8")
PLAIN, BOUND = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# What they begin with, and how many tokens each of the two adds.
PROMPT, N_TOKENS = "The house was small, and ", 100

pytestmark = pytest.mark.usefixtures("onnxruntime")


@pytest.fixture(scope="module")
def onnxruntime() -> None:
    pytest.importorskip("onnxruntime")


def written_by(program: str, folder: Path) -> bytes:
    """What a program of the page prints, in a Python that imports nothing of this project."""
    guard = "import sys; sys.modules['rwkv_edge'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", guard + program],
        cwd=folder,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def expected_of(gguf: Path, n_tokens: int) -> bytes:
    """What plain numpy writes, of the likeliest token each time, as bytes."""
    with Model.load(gguf, "reference") as model:
        logits, state = model.forward(model.tokenizer.encode(PROMPT))
        text = b""
        for _ in range(n_tokens):
            token = int(logits.argmax())
            text += model.tokenizer.token_bytes(token)
            logits, state = model.forward([token], state)
    return text


def test_it_is_15_lines() -> None:
    assert len([line for line in PLAIN.splitlines() if line.strip()]) == 15


# In F32 both differ by the order of sums alone, which no choice of these texts depends on.
def test_its_programs_write_what_the_reference_writes_and_go_on_from_the_state(
    export: Export, tmp_path: Path
) -> None:
    shutil.copy(export("F32"), tmp_path / "model.onnx")
    convert(checkpoint_path(), tmp_path / "model.gguf", "F32")
    expected = expected_of(tmp_path / "model.gguf", 2 * N_TOKENS)
    assert written_by(PLAIN + BOUND, tmp_path) == expected


# The same onnxruntime on the same file: not a logit differs.
@pytest.mark.parametrize("weight_type", ["F16", "Q8_0", "Q4_0"])
def test_its_program_writes_what_the_engine_here_writes(
    weight_type: str, export: Export, tmp_path: Path
) -> None:
    model = export(weight_type, external_data=True)
    (data,) = model.parent.glob(f"{model.stem}.*.data")
    shutil.copy(model, tmp_path / "model.onnx")
    shutil.copy(data, tmp_path)
    with Model.load(model) as engine:
        expected = engine.generate(PROMPT, max_tokens=N_TOKENS, temperature=0)
    assert written_by(PLAIN, tmp_path).decode() == expected


def test_its_program_runs_a_version_with_other_state_arrays(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from rwkv_edge.converters.onnx.export import convert_to_onnx

    checkpoint = tmp_path / "model.pth"
    hp = synthetic_hyperparameters(2, 64, version="4", n_vocab=256)
    write_synthetic(checkpoint, hp, seed=4)
    convert(checkpoint, tmp_path / "model.gguf", "F32")
    convert_to_onnx(checkpoint, tmp_path / "model.onnx", "F32")
    assert written_by(PLAIN, tmp_path) == expected_of(tmp_path / "model.gguf", N_TOKENS)


def test_its_table_of_states_is_that_of_every_version() -> None:
    rows = re.findall(r"^\| ((?:\d\w?(?:\.\d)?(?:, )?)+) \| (`att_x`.*) \|$", PAGE, re.MULTILINE)
    named = {version: arrays for versions, arrays in rows for version in versions.split(", ")}
    assert set(named) == set(SYNTHETIC_VERSIONS)
    for version, arrays in named.items():
        hp = synthetic_hyperparameters(2, 64, version=version, n_vocab=256)
        shapes = architecture_of(version).state_shapes(hp)
        table, _, remark = arrays.partition(".")
        assert re.findall(r"`(\w+)`", table) == list(shapes)
        assert ("pp" in shapes) == ("-1e30" in remark)
        assert all(shape[:1] == (2,) for shape in shapes.values())


def test_the_options_it_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", "--help"])
    shown = capsys.readouterr().out
    named = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", PAGE)) - {"--directory"}
    assert {"--onnx", "--external-data", "--q4"} <= named
    for option in named - {"--backend"}:
        assert option in shown, option


def test_what_is_installed_runs_every_weight_type_by_its_table() -> None:
    (row,) = re.findall(r"^\| onnxruntime \| ([\d.]+) \| ([\d.]+):", PAGE, re.MULTILINE)
    needed = max(row, key=lambda version: [int(part) for part in version.split(".")])
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"onnxruntime>={needed}"' in project
