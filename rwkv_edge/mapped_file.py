"""A file in the address space: nothing of it is read before it is looked at."""

import contextlib
import mmap
from pathlib import Path

import numpy as np

from rwkv_edge.errors import FormatError
from rwkv_edge.gguf_reader import require_no_pipe
from rwkv_edge.quant import Bytes


class MappedFile:
    """One file, mapped until it is closed. Raises FormatError if it is empty or no file, OSError.

    buffer: all of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        require_no_pipe(path)
        with open(path, "rb") as file:
            # A map of nothing cannot be made.
            if not file.read(1):
                raise FormatError(f"{path}: the file is empty; download or export it again")
            self.buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._n_bytes = len(self.buffer)

    def __len__(self) -> int:
        """Bytes that the file had when it was opened."""
        return self._n_bytes

    def view(self, offset: int, n_bytes: int) -> Bytes:
        """Some of its bytes, (n_bytes,) uint8, not copied; they must be there."""
        return np.frombuffer(self.buffer, np.uint8, n_bytes, offset)

    def require_whole(self) -> None:
        """Raise FormatError if another program has cut the file since it was opened.

        As of a GGUF: reading mapped bytes that are gone ends the process, which nothing can catch.
        """
        # Python asks the system; its own size of the map is len().
        n_bytes = self.buffer.size()
        if n_bytes < self._n_bytes:
            raise FormatError(
                f"{self.path}: was cut to {n_bytes:,} of {self._n_bytes:,} bytes while it was "
                "open; load it again once it is whole"
            )

    def close(self) -> None:
        """Unmap it; if views of it are still alive, it goes with the last of them."""
        with contextlib.suppress(BufferError):
            self.buffer.close()
