"""A file of 2 GB is described out of its header: almost nothing of it is read, or held in memory.

The files are holes but for their headers, made with truncate.
"""

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.checkpoints.pth_writer import PthWriter
from rwkv_edge.converters.gguf_file import GgufHeader, write_header
from rwkv_edge.converters.plan import padded_bytes, planned_tensors
from rwkv_edge.converters.synthetic import SYNTHETIC_VERSIONS, synthetic_hyperparameters
from rwkv_edge.converters.tokenizers.vocabulary import EmbeddedVocabulary
from rwkv_edge.tokenizers.vocabulary_file import byte_vocabulary

HP = synthetic_hyperparameters(20, 2048, n_vocab=256)
GIGABYTES = 1_900_000_000
# The largest header here is the directory of the .pth, of 3 MB.
MAX_READ = 10_000_000
# More than a small file takes: the header as Python objects.
MAX_MEMORY = 10_000_000
DESCRIBE = """
import json, sys
from pathlib import Path
from rwkv_edge.apps.fresh_process import resident_bytes
from rwkv_edge.apps.file_info import describe_file
def n_read():
    try:
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])
    except OSError:
        return 0
describe_file(Path(sys.argv[1]))  # imports what is needed
before = n_read()
found = describe_file(Path(sys.argv[2]))
print(json.dumps({"n_read": n_read() - before, "peak": resident_bytes().peak,
                  "n_parameters": found.n_parameters, "use": found.use}))
"""


def write_gguf(path: Path) -> None:
    tensors = planned_tensors(HP, "F16")
    header = GgufHeader(
        architecture="rwkv7",
        name="large",
        weight_type="F16",
        metadata=architecture_of("7").gguf_metadata(HP),
        tokenizer=EmbeddedVocabulary(byte_vocabulary()),
        n_vocab=HP.n_vocab,
        tensors=tensors,
    )
    with open(path, "wb") as file:
        write_header(file, header)
        file.truncate(file.tell() + padded_bytes(tensors))


def write_safetensors(path: Path) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in SYNTHETIC_VERSIONS["7"].shapes(HP).items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(file.tell() + end)


class Holes:
    """A file that leaves out what is zero."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.flush, self.close = (
            file.seek, file.tell, file.flush, file.close,
        )  # fmt: skip

    def write(self, data: bytes) -> int:
        # What is not zeros here begins with something else.
        if len(data) < CHUNK or data[0]:
            return self._file.write(data)
        self._file.seek(len(data), 1)
        return len(data)


CHUNK = 1 << 16


def write_pth(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of two gigabytes, for nobody: these checkpoints are not checked by their sums.
    monkeypatch.setattr(zipfile, "crc32", lambda data, value=0: 0)
    zeros = memoryview(bytes(CHUNK * 64))
    with PthWriter(path) as writer:
        archive: Any = writer._archive
        archive.fp = Holes(archive.fp)
        for name, shape in SYNTHETIC_VERSIONS["7"].shapes(HP).items():
            n_bytes = 2 * prod(shape)
            whole, rest = divmod(n_bytes, len(zeros))
            writer.add(name, "bfloat16", shape, [zeros] * whole + [zeros[:rest]])


@pytest.mark.parametrize("kind", ["gguf", "safetensors", "pth"])
def test_two_gigabytes_are_described_without_reading_them(
    tmp_path: Path, pth: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"large.{kind}"
    writers: dict[str, Callable[[], None]] = {
        "gguf": lambda: write_gguf(path),
        "safetensors": lambda: write_safetensors(path),
        "pth": lambda: write_pth(path, monkeypatch),
    }
    writers[kind]()
    assert path.stat().st_size > GIGABYTES
    if path.stat().st_blocks * 512 > GIGABYTES // 10:
        pytest.skip("this file system has no holes")
    small, large = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", DESCRIBE, str(pth), str(which)],
                capture_output=True, text=True, check=True,
            ).stdout
        )
        for which in (pth, path)
    )  # fmt: skip
    assert large["use"] == ("run" if kind == "gguf" else "convert")
    assert large["n_parameters"] > GIGABYTES / 2
    assert large["n_read"] < MAX_READ
    if small["peak"] is not None:
        assert large["peak"] - small["peak"] < MAX_MEMORY
