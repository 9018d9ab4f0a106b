"""A file that appears whole or not at all."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".partial"


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path` once the block ends without an exception.

    It is written beside `path` under a hidden name, reaches the disk, and is renamed; what was
    there before stays until then. On any exception it is removed, and so are the leftovers of
    processes that were killed while they wrote the same path. Raises OSError.
    """
    path = Path(path)
    remove_leftovers(path)
    # The number names the process, for `remove_leftovers`; the rest, one of its threads.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def remove_leftovers(path: Path) -> None:
    """Remove the partial files of dead processes that were writing `path`."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})-[0-9a-f]+{re.escape(SUFFIX)}")
    with contextlib.suppress(OSError):
        for other in os.listdir(path.parent):
            match = name.fullmatch(other)
            if match and not is_alive(int(match[1])):
                with contextlib.suppress(OSError):
                    (path.parent / other).unlink()


def is_alive(pid: int) -> bool:
    """True if a process of this number may exist; where that cannot be asked, True."""
    if os.name == "nt":
        # os.kill would end the process there. An open file cannot be removed on Windows anyway.
        return pid == os.getpid()
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
