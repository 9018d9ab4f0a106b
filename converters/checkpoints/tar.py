"""The members of a tar file, as far as the oldest checkpoints need them.

A member is a header of 512 bytes, then its bytes, filled up to a multiple of 512.
Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header".
"""

import os
from typing import BinaryIO

from rwkv_edge.converters.checkpoints.pickled import PickleError

BLOCK_BYTES = 512
# `ustar` stands here in a header.
MAGIC_PLACE, MAGIC = 257, b"ustar"
NAME_FIELD = slice(0, 100)
SIZE_FIELD = slice(124, 136)
TYPE_PLACE = 156
FILE_TYPES = (b"0", b"\0")
EXTENDED_HEADER = b"x"
# torch.save wrote three, each with an extended header.
MAX_MEMBERS = 64
MAX_EXTENDED_BYTES = 1 << 16


def looks_like_tar(head: bytes) -> bool:
    """`head`: the first bytes of a file."""
    return head[MAGIC_PLACE:].startswith(MAGIC)


def tar_members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where each regular file in it begins and ends, by name; raises PickleError."""
    n_bytes = file.seek(0, os.SEEK_END)
    members: dict[str, tuple[int, int]] = {}
    position, n_members = 0, 0
    size_in_extension: int | None = None
    while position + BLOCK_BYTES <= n_bytes:
        file.seek(position)
        header = file.read(BLOCK_BYTES)
        if not header.strip(b"\0"):
            break
        n_members += 1
        if not looks_like_tar(header) or n_members > MAX_MEMBERS:
            raise PickleError("is a tar file, but not one that torch.save wrote")
        kind = header[TYPE_PLACE : TYPE_PLACE + 1]
        start = position + BLOCK_BYTES
        size = size_of(header) if size_in_extension is None else size_in_extension
        size_in_extension = None
        if size > n_bytes - start:
            raise PickleError(
                f"says that {size} bytes follow at byte {start}; {n_bytes - start} do; it was "
                "probably cut short; fetch it again"
            )
        name = header[NAME_FIELD].rstrip(b"\0").decode("ascii", "replace")
        if kind == EXTENDED_HEADER:
            size_in_extension = extended_size(file.read(min(size, MAX_EXTENDED_BYTES)))
        elif kind in FILE_TYPES:
            if name in members:
                raise PickleError("has two members of one name; it is damaged")
            members[name] = (start, start + size)
        position = start + -(-size // BLOCK_BYTES) * BLOCK_BYTES
    return members


def size_of(header: bytes) -> int:
    """The length in bytes that a header states, in octal digits."""
    digits = header[SIZE_FIELD].strip(b" \0")
    if not digits or not set(digits) <= set(b"01234567"):
        raise PickleError("has a tar header without a length; it is damaged")
    return int(digits, 8)


def extended_size(records: bytes) -> int | None:
    """The length that an extended header states for the next member, where octal is too short."""
    for record in records.split(b"\n"):
        key, _, value = record.partition(b" ")[2].partition(b"=")
        if key == b"size" and value.isdigit() and len(value) < 20:
            return int(value)
    return None
