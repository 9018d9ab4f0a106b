"""A conversion that is killed, or meets a full disk, leaves no file under the final name."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import RwkvEdgeError

CONVERT = """
import sys
from rwkv_edge.converters.convert import convert

def stop(done, total):
    if done > float(sys.argv[3]) * total:
        print("reached", flush=True)
        sys.stdin.read()

convert(sys.argv[1], sys.argv[2], progress=stop)
"""


def reach(source: Path, out: Path, share: float) -> "subprocess.Popen[str]":
    """A process that has written `share` of the output and waits there."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONVERT, str(source), str(out), str(share)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n"
    return process


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_killed_conversion_leaves_nothing_under_the_final_name(
    tmp_path: Path, tiny_pth: Path, share: float
) -> None:
    out = tmp_path / "m.gguf"
    process = reach(tiny_pth, out, share)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 2
    convert(tiny_pth, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "tiny.pth"]


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_an_interrupted_conversion_cleans_up_and_its_threads_end(
    tmp_path: Path, tiny_pth: Path
) -> None:
    process = reach(tiny_pth, tmp_path / "m.gguf", 0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.wait(timeout=30) != 0
    assert time.monotonic() - began < 30
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here (that takes root on Linux)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    hp = synthetic_hyperparameters(4, 256, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    filler = small_disk / "other"

    def fill(done: int, total: int) -> None:
        """Somebody else takes the space after it was asked for."""
        if not filler.exists():
            free = os.statvfs(small_disk)
            filler.write_bytes(bytes(free.f_bavail * free.f_frsize - (64 << 10)))

    with pytest.raises(RwkvEdgeError, match="disk is full"):
        convert(tmp_path / "m.pth", small_disk / "m.gguf", progress=fill)
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def test_a_disk_that_is_too_small_is_said_up_front(tmp_path: Path, small_disk: Path) -> None:
    hp = synthetic_hyperparameters(4, 512, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    with pytest.raises(RwkvEdgeError, match=r"needs \d+ bytes on its disk"):
        convert(tmp_path / "m.pth", small_disk / "m.gguf", "F32")
    assert list(small_disk.iterdir()) == []
