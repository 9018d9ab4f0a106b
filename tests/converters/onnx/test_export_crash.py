"""An export that is killed, or meets a full disk, leaves a model as it was, with its data file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
import onnx

from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.onnx.export import convert_to_onnx
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError, RwkvEdgeError
from tests.converters.kills import contents_of
from tests.converters.test_convert_crash import half_way

EXPORT = """
import pathlib, sys
from rwkv_edge.converters.onnx import model_writer
from rwkv_edge.converters.onnx.export import convert_to_onnx

source, out, share, external = sys.argv[1:]

def wait():
    print("reached", flush=True)
    sys.stdin.read()

def stop(done, total):
    if done > float(share) * total:
        wait()

if share == "between":
    # The data file has its name, and what refers to it is still being written.
    model_writer.ModelLayout._end = lambda layout, props: wait()
    stop = None
elif share == "after":
    # The new model is in its place; the older data file is about to go.
    pathlib.Path.unlink = lambda path, missing_ok=False: wait()
    stop = None
convert_to_onnx(source, out, progress=stop, external_data=external == "True")
"""
posix = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")


def reach(source: Path, out: Path, share: object, external: bool) -> "subprocess.Popen[str]":
    """A process that has come so far, and waits there."""
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, str(source), str(out), str(share), str(external)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@posix
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999, "between"])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("has_older", [False, True])
def test_a_kill_leaves_what_was_there(
    tmp_path: Path, tiny_pth: Path, share: object, external: bool, has_older: bool
) -> None:
    out = tmp_path / "m.onnx"
    if has_older:
        convert_to_onnx(tiny_pth, out, "Q8_0", external_data=True)
    before = contents_of(tmp_path)
    process = reach(tiny_pth, out, share, external)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    after = contents_of(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert out.exists() == has_older
    # The partial file, and between the two the data file that nothing refers to.
    assert len(after) - len(before) == (2 if external and share == "between" else 1)
    convert_to_onnx(tiny_pth, out, external_data=external)
    assert not [name for name in names(tmp_path) if name.endswith(".partial")]
    assert len(names(tmp_path)) == (3 if external else 2)
    onnx.checker.check_model(out, full_check=True)


@posix
def test_a_kill_before_the_older_data_file_goes_leaves_the_new_model(
    tmp_path: Path, tiny_pth: Path
) -> None:
    out = tmp_path / "m.onnx"
    older = convert_to_onnx(tiny_pth, out, "Q8_0", external_data=True)
    process = reach(tiny_pth, out, "after", True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert older.data_path is not None
    assert older.data_path.exists()
    onnx.checker.check_model(out, full_check=True)


@posix
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("share", [0.3, "between"])
def test_an_interrupted_export_cleans_up(
    tmp_path: Path, tiny_pth: Path, share: object, external: bool
) -> None:
    process = reach(tiny_pth, tmp_path / "m.onnx", share, external)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert names(tmp_path) == ["tiny.pth"]


@pytest.mark.parametrize("external", [False, True])
def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, small_disk: Path, external: bool
) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(4, 256, n_vocab=256))
    filler = small_disk / "other"

    def fill(done: int, total: int) -> None:
        """Somebody else takes the space after it was asked for."""
        if not filler.exists():
            free = os.statvfs(small_disk)
            filler.write_bytes(bytes(free.f_bavail * free.f_frsize - (64 << 10)))

    with pytest.raises(RwkvEdgeError, match=r"m\.onnx: the disk is full: it needs \d+ bytes"):
        convert_to_onnx(
            tmp_path / "m.pth", small_disk / "m.onnx", progress=fill, external_data=external
        )
    assert names(small_disk) == ["other"]


@pytest.mark.parametrize("external", [False, True])
def test_a_disk_that_is_too_small_is_said_up_front(
    tmp_path: Path, small_disk: Path, external: bool
) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(4, 512, n_vocab=256))
    with pytest.raises(RwkvEdgeError, match=r"needs \d+ bytes on its disk"):
        convert_to_onnx(tmp_path / "m.pth", small_disk / "m.onnx", "F32", external_data=external)
    assert names(small_disk) == []


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_an_input_that_is_written_to_half_way_is_an_error(
    tmp_path: Path, tiny_pth: Path, tiny: Rwkv7Hyperparameters, external: bool, kept: bool
) -> None:
    """Its numbers must not come from two files, whether they are encoded or taken as they are."""
    source = convert_q8(tiny_pth, tmp_path) if kept else tiny_pth
    before = names(tmp_path)

    def touch() -> None:
        os.utime(source, ns=(0, 1))

    with pytest.raises(FormatError, match="changed while it was read"):
        convert_to_onnx(
            source,
            tmp_path / "m.onnx",
            None if kept else "Q4_0",
            progress=half_way(touch),
            external_data=external,
        )
    assert names(tmp_path) == before


def test_a_gguf_that_is_cut_half_way_is_an_error(tmp_path: Path, tiny_pth: Path) -> None:
    source = convert_q8(tiny_pth, tmp_path)
    cut = half_way(lambda: os.truncate(source, 1000))
    with pytest.raises(FormatError, match="it shrank while it was read"):
        convert_to_onnx(source, tmp_path / "m.onnx", None, progress=cut)
    assert not (tmp_path / "m.onnx").exists()


def convert_q8(source: Path, folder: Path) -> Path:
    from rwkv_edge.converters.convert import convert

    return convert(source, folder / "m.gguf", "Q8_0").path
