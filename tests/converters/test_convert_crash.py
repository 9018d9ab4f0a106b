"""A conversion that is killed, or meets a full disk, leaves no file under the final name."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError, RwkvEdgeError
from rwkv_edge.model_file import ModelFile

# More by hand: `python -m tests.converters.kills --kills 200`.
N_KILLS = 8

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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that fork are POSIX")
@pytest.mark.parametrize("what", ["conversions", "exports", "saves"])
def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path, what: str) -> None:
    """In a process of its own: one that has threads must not fork."""
    command = (
        "import sys, pathlib, tests.converters.kills as kills\n"
        f"found = kills.kill_{what}(pathlib.Path(sys.argv[1]), {N_KILLS}, 7)\n"
        "print(found['killed'], found['finished before'])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed, finished = map(int, done.stdout.split())
    assert killed > 0
    assert killed + finished == N_KILLS


@pytest.fixture
def whole(tmp_path: Path, tiny_pth: Path) -> bytes:
    """What an undisturbed conversion writes."""
    convert(tiny_pth, tmp_path / "whole.gguf")
    data = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "whole.gguf").unlink()
    return data


def half_way(action: Callable[[], object]) -> Callable[[int, int], None]:
    """A progress callback that does something once, when half is written."""
    done: list[bool] = []

    def progress(n_done: int, n_total: int) -> None:
        if 2 * n_done > n_total and not done:
            done.append(True)
            action()

    return progress


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed or replaced there")
@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_an_input_that_is_removed_or_replaced_half_way_is_still_read_whole(
    tmp_path: Path, tiny_pth: Path, tiny: Rwkv7Hyperparameters, whole: bytes, what: str
) -> None:
    """The file that was opened stays, whatever its name stands for later."""
    other = tmp_path / "other.pth"
    write_synthetic(other, tiny, seed=9)

    def act() -> None:
        tiny_pth.unlink() if what == "removed" else other.replace(tiny_pth)

    convert(tiny_pth, tmp_path / "m.gguf", progress=half_way(act))
    assert (tmp_path / "m.gguf").read_bytes() == whole


@pytest.mark.parametrize("has_older", [False, True])
def test_an_input_that_is_cut_half_way_is_an_error(
    tmp_path: Path, tiny_pth: Path, has_older: bool
) -> None:
    out = tmp_path / "m.gguf"
    if has_older:
        out.write_bytes(b"older")
    cut = half_way(lambda: os.truncate(tiny_pth, 1000))
    # One thread: others would have read what is cut off by then.
    with pytest.raises(FormatError, match=r"tiny\.pth: .*(it shrank|changed) while it was read"):
        convert(tiny_pth, out, threads=1, progress=cut)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == (["m.gguf", "tiny.pth"] if has_older else ["tiny.pth"])
    assert not has_older or out.read_bytes() == b"older"


def test_an_input_that_is_written_to_half_way_is_an_error(
    tmp_path: Path, tiny_pth: Path, tiny: Rwkv7Hyperparameters
) -> None:
    """As a download that begins anew does: the size is right, half of the numbers are others."""
    other = tmp_path / "other.pth"
    write_synthetic(other, tiny, seed=9)
    numbers = other.read_bytes()

    def overwrite() -> None:
        with open(tiny_pth, "r+b") as file:
            file.write(numbers)
        os.utime(tiny_pth, ns=(0, 1))

    with pytest.raises(FormatError, match=r"tiny\.pth: changed while it was read"):
        convert(tiny_pth, tmp_path / "m.gguf", progress=half_way(overwrite))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pth", "tiny.pth"]


@pytest.mark.skipif(os.name == "nt", reason="a folder with open files cannot be removed there")
def test_a_destination_whose_folder_is_removed_half_way_is_an_error(
    tmp_path: Path, tiny_pth: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    remove = half_way(lambda: shutil.rmtree(folder))
    with pytest.raises(RwkvEdgeError, match=r"m\.gguf: cannot be written"):
        convert(tiny_pth, folder / "m.gguf", progress=remove)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]


@pytest.mark.skipif(os.name == "nt", reason="folders are not protected that way there")
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path, tiny_pth: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere (root)")
    with pytest.raises(RwkvEdgeError, match=r"m\.gguf: cannot be written: Permission denied"):
        convert(tiny_pth, folder / "m.gguf")
    assert not list(folder.iterdir())


def test_a_disk_that_may_not_be_written_is_an_error(
    tmp_path: Path, tiny_pth: Path, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RwkvEdgeError, match=r"m\.gguf: cannot be written: Read-only file system"):
        convert(tiny_pth, small_disk / "m.gguf")


def test_a_destination_on_another_disk_is_written_there(
    tmp_path: Path, tiny_pth: Path, whole: bytes, small_disk: Path
) -> None:
    assert small_disk.stat().st_dev != tmp_path.stat().st_dev
    convert(tiny_pth, small_disk / "m.gguf")
    assert (small_disk / "m.gguf").read_bytes() == whole
    assert [path.name for path in small_disk.iterdir()] == ["m.gguf"]


LIMITED = """
import resource, sys
from rwkv_edge.errors import RwkvEdgeError
from rwkv_edge.converters.convert import convert
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    convert(sys.argv[1], sys.argv[2])
except RwkvEdgeError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits of processes are POSIX")
@pytest.mark.parametrize("share", [0.0005, 0.1, 0.9, 0.9999])
def test_a_file_that_may_not_grow_leaves_nothing(
    tmp_path: Path, tiny_pth: Path, whole: bytes, share: float
) -> None:
    """As on a full disk, without one: in the header, in the tensors, in the last bytes."""
    out = tmp_path / "m.gguf"
    out.write_bytes(b"older")
    limit = str(int(share * len(whole)))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tiny_pth), str(out), limit],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == f"{out}: cannot be written: File too large\n"
    assert out.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "tiny.pth"]


def test_two_conversions_to_one_name_do_not_meet(
    tmp_path: Path, tiny_pth: Path, whole: bytes
) -> None:
    """Each waits for the other in the middle; whoever ends last has written the whole file."""
    out = tmp_path / "m.gguf"
    barrier = threading.Barrier(2, timeout=120)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            convert(tiny_pth, out, progress=half_way(barrier.wait))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert out.read_bytes() == whole
    ModelFile(out).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "tiny.pth"]


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_conversion_beside_one_that_waits_leaves_it_alone(
    tmp_path: Path, tiny_pth: Path, whole: bytes
) -> None:
    """Another process's unfinished file is none of those that a killed one left."""
    out = tmp_path / "m.gguf"
    process = reach(tiny_pth, out, 0.5)
    convert(tiny_pth, out)
    assert out.read_bytes() == whole
    out.unlink()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=120) == 0
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "tiny.pth"]


COMMAND = """
import sys, threading
from rwkv_edge.apps import cli, console
from contextlib import contextmanager

@contextmanager
def progress(*_):
    def stop(done, total):
        if 2 * done > total:
            print("reached", flush=True)
            threading.Event().wait(60)
    yield stop

console.progress = progress
sys.exit(cli.main(["convert", sys.argv[1], "-o", sys.argv[2]]))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_command_cleans_up_when_it_is_asked_to_end(
    tmp_path: Path, tiny_pth: Path, name: str
) -> None:
    number = signal.Signals[name]
    out = tmp_path / "m.gguf"
    out.write_bytes(b"older")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tiny_pth), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert said == "rwkv-edge: interrupted\n"
    assert out.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "tiny.pth"]
