"""The tar file that torch.save wrote before 0.1.10, which nothing writes any more."""

import io
import pickle
import struct
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from rwkv_edge.converters.checkpoints.pth_writer import integer, named, text

FOUR = np.arange(1, 5, dtype=np.float32)
FOUR_BYTES = FOUR.tobytes()


def oldest(
    tensors: list[tuple[str, str, str, int, Any, Any]],
    *,
    storages: Sequence[tuple[str, str, bytes]] = (("7", "FloatStorage", FOUR_BYTES),),
    views: Sequence[tuple[int, int, int, int]] = ((8, 7, 0, 4),),
    members: tuple[str, ...] = ("storages", "tensors", "pickle"),
) -> bytes:
    """tensors: (name in the dict, number, number of the storage, offset, shape, strides)."""
    stored = pickle.dumps(len(storages), 2)
    for key, kind, data in storages:
        n_bytes = 2 if kind == "HalfStorage" else 4
        described = integer(int(key)) + text("cpu") + named("torch", kind)
        stored += (
            b"\x80\x02" + described + b"\x87." + struct.pack("<q", len(data) // n_bytes) + data
        )
    stored += pickle.dumps(list(views), 2)
    listed = pickle.dumps(len(tensors), 2)
    entries = b""
    for name, key, root, offset, shape, strides in tensors:
        described = integer(int(key)) + integer(int(root)) + named("torch", "FloatTensor")
        numbers = struct.pack(f"<{2 * len(shape) + 1}q", *shape, *strides, offset)
        listed += b"\x80\x02" + described + b"\x87." + struct.pack("<ii", len(shape), 0) + numbers
        entries += text(name) + text(key) + b"Q"
    contents = {
        "storages": stored,
        "tensors": listed,
        "pickle": b"\x80\x02}(" + entries + b"u.",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member)
            info.size = len(contents[member])
            # A time with a fraction takes an extended header, as torch's files have them.
            info.mtime = 1484000000.5
            archive.addfile(info, io.BytesIO(contents[member]))
    return out.getvalue()
