"""A file appears whole or not at all, whatever ends the writing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rwkv_edge import atomic_file
from rwkv_edge.atomic_file import atomic_write, is_alive, lock, remove_leftovers


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


def test_what_was_written_may_decide_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    path.write_bytes(b"other")
    written: list[int] = []
    for content in (b"one", b"three"):
        with atomic_write(path, named=lambda: f"a.{written[-1]}.data") as file:
            written.append(file.write(content))
    assert names(tmp_path) == ["a.3.data", "a.5.data", "a.data"]
    assert (tmp_path / "a.5.data").read_bytes() == b"three"
    assert path.read_bytes() == b"other"


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
    # Another file's leftovers, and files that merely look like some, are none of our business.
    other = left.replace(".a.", ".b.")
    for name in (other, "a.state.partial", ".a.state.x-1.partial"):
        (tmp_path / name).write_bytes(b"")
    with atomic_write(path) as file:
        file.write(b"whole")
    assert names(tmp_path) == sorted([other, "a.state.partial", ".a.state.x-1.partial", "a.state"])


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_what_is_left_under_a_living_process_s_number_is_removed(tmp_path: Path) -> None:
    """In a container, the process that was killed and the next one are often number 7 both."""
    path = tmp_path / "a.state"
    left = tmp_path / f".a.state.{os.getpid()}-0123abcd.partial"
    left.write_bytes(b"half")
    with atomic_write(path) as file:
        assert not left.exists()
        file.write(b"whole")
    assert names(tmp_path) == ["a.state"]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_what_is_written_under_a_dead_process_s_number_is_let_be(tmp_path: Path) -> None:
    """Of a process in another container, which shares the folder, the number says nothing."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "a.state"
    with atomic_write(path) as file:
        (mine,) = tmp_path.iterdir()
        theirs = mine.with_name(mine.name.replace(str(os.getpid()), str(ended.pid)))
        mine.rename(theirs)
        remove_leftovers(path)
        assert theirs.exists()
        theirs.rename(mine)
        file.write(b"whole")
    assert path.read_bytes() == b"whole"


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_without_locks_the_number_of_the_process_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f".a.state.{ended.pid}-0123abcd.partial"
    alive = tmp_path / f".a.state.{os.getpid()}-0123abcd.partial"
    for left in (dead, alive):
        left.write_bytes(b"half")
    monkeypatch.setattr(atomic_file, "lock", lambda descriptor: None)
    with atomic_write(tmp_path / "a.state") as file:
        file.write(b"whole")
    assert names(tmp_path) == [alive.name, "a.state"]


@pytest.mark.skipif(os.name == "nt", reason="links and pipes in the file system are POSIX")
def test_what_looks_like_a_leftover_but_is_none_is_not_followed(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_bytes(b"mine")
    (tmp_path / ".a.state.999999999-01.partial").symlink_to(treasure)
    os.mkfifo(tmp_path / ".a.state.999999999-02.partial")
    (tmp_path / ".a.state.999999999-03.partial").mkdir()
    with atomic_write(tmp_path / "a.state") as file:
        file.write(b"whole")
    assert treasure.read_bytes() == b"mine"
    assert (tmp_path / "a.state").read_bytes() == b"whole"


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_file_that_was_taken_for_a_leftover_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its locking, another writer may come by."""
    locks: list[int] = []

    def lock_late(descriptor: int) -> bool | None:
        if not locks:
            for partial in tmp_path.iterdir():
                partial.unlink()
        locks.append(descriptor)
        return lock(descriptor)

    monkeypatch.setattr(atomic_file, "lock", lock_late)
    with atomic_write(tmp_path / "a.state") as file:
        file.write(b"whole")
    assert len(locks) == 2
    assert (tmp_path / "a.state").read_bytes() == b"whole"


ROOT = Path(__file__).parents[1]
INSTALLED = ("rwkv_edge", "converters", "runtime", "apps")
# What makes or changes a file by its name.
WRITING = re.compile(
    r"""\bopen\([^)\n]*,\s*(?:mode=)?["'][^"'\n]*[wax+]|\.write_(?:text|bytes)\("""
    r"""|\bos\.(?:rename|replace)\(|\.tofile\(|\bnp\.savez?|save_file\(|shutil\.(?:copy|move)"""
)
ALLOWED = {
    "rwkv_edge/atomic_file.py": 2,
    # A member of the zip file that atomic_write opened.
    "converters/checkpoints/pth_writer.py": 1,
}


def test_nothing_installed_writes_a_file_in_another_way() -> None:
    found = {}
    for folder in INSTALLED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            n_places = len(WRITING.findall(path.read_text(encoding="utf-8")))
            if n_places:
                found[path.relative_to(ROOT).as_posix()] = n_places
    assert found == ALLOWED


def test_this_process_is_alive() -> None:
    assert is_alive(os.getpid())


@pytest.mark.skipif(os.name == "nt", reason="processes cannot be asked there")
def test_a_process_that_ended_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not is_alive(child.pid)
    assert is_alive(1)
