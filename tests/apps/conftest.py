"""The command line, called in this process and in ones of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.apps.cli import main
from rwkv_edge.builtin import checkpoint_path
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic

COMMAND = [sys.executable, "-m", "rwkv_edge.apps.cli"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def failed_with(self, message: str) -> bool:
        """One line on stderr that says this, nothing on stdout, and exit code 1."""
        assert self.code == 1, self
        assert self.out == ""
        assert self.err.startswith("rwkv-edge: "), self.err
        assert self.err.count("\n") == 1, self.err
        return message in self.err


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `main` with these arguments."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def run_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the program as a shell would."""

    def call(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.run(command, text=True, timeout=300, check=False, **options)

    return call


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the program and go on; what is left running is ended."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [*COMMAND, *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        # Else output waits in a buffer of the child while the test waits for output.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        started.append(subprocess.Popen(command, env=environment, **options))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="session")
def pth() -> Path:
    """The checkpoint that ships with the package."""
    return checkpoint_path()


@pytest.fixture(scope="session")
def gguf(pth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted; read only."""
    path = tmp_path_factory.mktemp("apps") / "model.gguf"
    convert(pth, path, "Q8_0")
    return path


@pytest.fixture(scope="session")
def endless_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model over bytes: nothing ends its documents, and it hardly spells a stop text."""
    folder = tmp_path_factory.mktemp("endless")
    write_synthetic(folder / "m.pth", synthetic_hyperparameters(2, 64, n_vocab=256))
    convert(folder / "m.pth", folder / "m.gguf", "Q8_0")
    return folder / "m.gguf"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 kB."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can make a small disk to fill")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
