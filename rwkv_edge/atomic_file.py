"""A file that appears whole or not at all."""

import contextlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".partial"


@contextlib.contextmanager
def atomic_write(path: str | Path, named: Callable[[], str] | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path` once the block ends without an exception.

    It is written beside `path` under a hidden name, reaches the disk, and is renamed; what was
    there before stays until then. On any exception it is removed, and so are the leftovers of
    processes that were killed while they wrote the same path. Raises OSError.

    named: asked when the block has ended for another name in the same folder, which what was
    written decides.
    """
    path = Path(path)
    remove_leftovers(path)
    partial, file = open_partial(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path if named is None else path.with_name(named()))
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def open_partial(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked for as long as it is open."""
    while True:
        # The number names the process, where there are no locks; the rest, one of its threads.
        partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")
        file = open(partial, "xb")  # noqa: SIM115 - its writer closes it
        # Before it was locked, another writer may have taken it for a leftover and removed it.
        if lock(file.fileno()) is not False and os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()


def remove_leftovers(path: Path) -> None:
    """Remove the partial files of `path` that nobody writes any more."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})-[0-9a-f]+{re.escape(SUFFIX)}")
    with contextlib.suppress(OSError):
        for other in os.listdir(path.parent):
            match = name.fullmatch(other)
            if match:
                with contextlib.suppress(OSError):
                    remove_if_left(path.parent / other, int(match[1]))


def remove_if_left(partial: Path, pid: int) -> None:
    """Remove a partial file of a process of this number, unless it is still written.

    Its lock says so. The number alone does not: containers that share a folder number their
    processes each by itself, and the next one in the same container often has the same number.
    """
    if os.name == "nt":
        # There an open file cannot be removed.
        partial.unlink()
        return
    # No link to elsewhere, and no pipe to wait for.
    descriptor = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        is_mine = lock(descriptor)
        if is_mine or (is_mine is None and not is_alive(pid)):
            partial.unlink()
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed; False if it is locked already, None if that cannot be.

    The system gives the locks of a killed process back. Those of `flock` belong to this descriptor;
    those of `lockf` would go with any other of the same file, such as gguf's writer opens.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some network file systems have no locks.
        return None
    return True


def is_alive(pid: int) -> bool:
    """True if a process of this number may exist; where that cannot be asked, True."""
    if os.name == "nt":
        # os.kill would end the process there.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where folders can be synced."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
