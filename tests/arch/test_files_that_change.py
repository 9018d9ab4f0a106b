"""Files that other programs change while a model runs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Alter = Callable[..., Path]

CUT = """
import os, sys
from rwkv_edge import Model, RwkvEdgeError
path = sys.argv[1]
with Model.load(path, sys.argv[2], threads=1) as model:
    _, state = model.forward([1, 2])
    size = os.path.getsize(path)
    os.truncate(path, 100)
    for ask in (
        lambda: model.forward([3], state),
        lambda: model.forward_batch([[3]], [state]),
        lambda: model.generate("C", max_tokens=2),
    ):
        try:
            ask()
        except RwkvEdgeError as error:
            print(error)
    # Larger is whole, too.
    os.truncate(path, size + 4096)
    model.forward([3])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody cut a file that is mapped")
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_a_file_that_is_cut_while_it_runs_is_an_error_and_not_the_end_of_the_process(
    altered_gguf: Alter, q8_gguf: Path, backend: str
) -> None:
    """The embedding is mapped, never read as a whole; bytes that are gone end in SIGBUS."""
    path = altered_gguf(q8_gguf)
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(path), backend],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}: was cut to 100 of ") for line in lines)
