"""Whatever is handed over instead of a checkpoint is refused in a sentence that says what it is."""

import os
from pathlib import Path

import pytest

from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.errors import FormatError

FOREIGN = {
    "a JPEG": (
        b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(600),
        "neither a .pth nor .*: a Hugging Face folder, .pth",
    ),
    "a web page": (b"<!DOCTYPE html><html>" + b" " * 600, "web page"),
    "a web page after blank lines": (b"\n\n  <html>" + b" " * 600, "web page"),
    "an empty GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(600), "holds no tensors"),
    "an old checkpoint cut off": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." * 2, "otherwise"),
    "a tar file of something else": (bytes(257) + b"ustar" + bytes(600), "tar header without"),
    "a pickle of something else": (b"\x80\x04K\x01." + bytes(600), "not one that torch"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "a big-endian rwkv.cpp file": (b"ggmf" + bytes(600), "big-endian"),
    "an empty zip file": (b"PK\x05\x06" + bytes(18), "empty"),
    "an empty file": (b"", "empty"),
    "a short file": (b"PK", "zip"),
    "zeros": (bytes(4096), "neither a .pth nor .*: a Hugging Face folder, .pth"),
    "text": (b"hello " * 100, "neither a .pth nor .*: a Hugging Face folder, .pth"),
    "the beginning of a zip file": (b"PK\x03\x04" + bytes(4096), "cut short"),
}


@pytest.mark.parametrize(("data", "message"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        open_checkpoint(tmp_path / "model.pth")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is a folder without model"):
        open_checkpoint(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(FormatError, match="regular"):
        open_checkpoint(path)


def test_a_file_name_that_goes_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FormatError, match="cannot be read"):
        open_checkpoint(tmp_path / "file" / "model.pth")
