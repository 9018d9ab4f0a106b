"""A file appears whole or not at all, whatever ends the writing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rwkv_edge.atomic_file import atomic_write, is_alive


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.state"]


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(str(path)) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.state"]
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_two_writers_of_one_path_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    with atomic_write(path) as one:
        with atomic_write(path) as two:
            one.write(b"first")
            two.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a.state"]


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "a.state"):
        pass


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.state").mkdir()
    with pytest.raises(OSError), atomic_write(tmp_path / "a.state") as file:  # noqa: PT011
        file.write(b"x")
    assert names(tmp_path) == ["a.state"]


KILLED = """
import os, signal, sys
from rwkv_edge.atomic_file import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert not path.exists()
    (left,) = names(tmp_path)
    assert left.startswith(".a.state.")
    # Another file's leftovers, and those of a process that lives, are none of our business.
    other = left.replace(".a.", ".b.")
    mine = f".a.state.{os.getpid()}-0123abcd.partial"
    for name in (other, mine, "a.state.partial", ".a.state.x-1.partial"):
        (tmp_path / name).write_bytes(b"")
    with atomic_write(path) as file:
        file.write(b"whole")
    assert names(tmp_path) == sorted(
        [other, mine, "a.state.partial", ".a.state.x-1.partial", "a.state"]
    )


def test_this_process_is_alive() -> None:
    assert is_alive(os.getpid())


@pytest.mark.skipif(os.name == "nt", reason="processes cannot be asked there")
def test_a_process_that_ended_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not is_alive(child.pid)
    assert is_alive(1)
