"""A kernel compiled by another process: it is the one that is called, and not depended on."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import (
    SYNTHETIC_VERSIONS,
    synthetic_hyperparameters,
    write_synthetic,
)
from rwkv_edge.runtime.backends import numba_cpu
from rwkv_edge.runtime.backends.compile_ahead import python_interpreter

# In a process whose cache is empty: prints whether the kernel is on disk afterwards, whether the
# logs said that kernels are compiled, and how the process ended that was started for it, if any.
SCRIPT = """
import logging, sys
from rwkv_edge.converters.synthetic import synthetic_hyperparameters
from rwkv_edge.jit import is_kept
from rwkv_edge.runtime.arch import COMPILED
from rwkv_edge.runtime.backends import compile_ahead
from rwkv_edge.runtime.batch import no_tokens
from rwkv_edge.runtime.kernels.barrier import new_sync

started, said = [], []
start = compile_ahead.start
compile_ahead.start = lambda *task: started.append(start(*task)) or started[-1]
handler = logging.Handler()
handler.emit = said.append
logging.getLogger("rwkv_edge.jit").setLevel(logging.INFO)
logging.getLogger("rwkv_edge.jit").addHandler(handler)

compiled = COMPILED["4"]
scratch = compiled.new_scratch(synthetic_hyperparameters(1, 64, n_vocab=256, version="4"), 1, 1)
arguments = compiled.no_weights(), scratch, no_tokens(), new_sync(), 0, 1
try:
    {before}
    with compile_ahead.compiled_ahead("4", arguments, n_cores={n_cores}):
        {inside}
except KeyboardInterrupt:
    pass
print(is_kept(compiled.forward), len(said), [process and process.returncode for process in started])
"""


def output_of(
    cache: Path, *, before: str = "pass", inside: str = "pass", n_cores: int = 2
) -> list[str]:
    script = SCRIPT.format(before=before, inside=inside, n_cores=n_cores)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "RWKV_EDGE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout.split()


def test_the_kernel_is_on_disk_afterwards(tmp_path: Path) -> None:
    assert output_of(tmp_path) == ["True", "1", "[0]"]
    # And nothing is compiled a second time, or said.
    assert output_of(tmp_path) == ["True", "0", "[]"]


@pytest.mark.parametrize(
    "before",
    [
        "sys.frozen = True",
        "sys.executable = '/usr/bin/painter'",
        "sys.executable = ''",
        "sys.executable = None",
        "sys.executable = '/nowhere/python3'",
    ],
)
def test_an_app_that_contains_python_is_not_called(before: str, tmp_path: Path) -> None:
    assert output_of(tmp_path, before=before) == ["False", "0", "[None]"]


def test_one_core_is_one_process(tmp_path: Path) -> None:
    assert output_of(tmp_path, n_cores=1) == ["False", "0", "[]"]


@pytest.mark.skipif(os.name == "nt", reason="needs a script that is a program")
@pytest.mark.parametrize(
    ("body", "code"), [("exit 3", 3), ("kill -9 $$", -9), ("exec sleep 60", -9)]
)
def test_a_process_that_fails_or_hangs_is_not_needed(body: str, code: int, tmp_path: Path) -> None:
    broken = tmp_path / "python3"
    broken.write_text(f"#!/bin/sh\n{body}\n")
    broken.chmod(0o755)
    before = f"sys.executable = {str(broken)!r}; compile_ahead.PATIENCE_SECONDS = 0.5"
    found = output_of(tmp_path / "cache", before=before)
    assert found == ["False", "1", f"[{code}]"]


def test_nothing_can_be_handed_over_where_nothing_can_be_kept(tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.touch()
    assert output_of(nowhere / "kernels") == ["False", "0", "[None]"]


def test_ctrl_c_ends_the_process_too(tmp_path: Path) -> None:
    kept, _, code = output_of(tmp_path, inside="raise KeyboardInterrupt")
    assert kept == "False"
    assert code not in ("[0]", "[None]", "[]")


def test_this_interpreter_can_be_called() -> None:
    assert python_interpreter() == sys.executable


@pytest.fixture(params=SYNTHETIC_VERSIONS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[numba_cpu.NumbaBackend]:
    checkpoint = tmp_path / "model.pth"
    hp = synthetic_hyperparameters(1, 64, n_vocab=256, version=request.param)
    write_synthetic(checkpoint, hp)
    convert(checkpoint, tmp_path / "model.gguf", "F32")
    with Model.load(tmp_path / "model.gguf") as model:
        assert isinstance(model.backend, numba_cpu.NumbaBackend)
        yield model.backend


def test_what_is_compiled_ahead_is_what_is_called(
    backend: numba_cpu.NumbaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def forward(*arguments: object) -> bool:
        called.append(arguments)
        return True

    replaced = dataclasses.replace(backend._compiled, forward=forward)
    monkeypatch.setattr(backend, "_compiled", replaced)
    tokens = np.zeros(3, np.int32)
    backend.forward(tokens, backend.new_state(), all_logits=False)
    stand_ins = backend._stand_ins()
    assert [numba.typeof(a) for a in stand_ins] == [numba.typeof(a) for a in called[0]]
