"""Where compiled kernels are kept, and what is said when there are none."""

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("numba")

from rwkv_edge import jit

# The smallest kernels there are, which texts longer than this are tokenized by.
TOKENIZE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
from rwkv_edge.tokenizers.world import WorldTokenizer
tokenizer = WorldTokenizer([bytes([i]) for i in range(256)] + [b"abc"])
assert tokenizer.encode("abcd" * 1000) == [256, ord("d")] * 1000
tokenizer.encode("abcd" * 2000)
"""
# numba imports this module when it gathers all functions that it knows how to compile.
LOAD_THEN_COMPILE = """
assert "numba.np.npyimpl" not in sys.modules
import numpy as np
from rwkv_edge.runtime.kernels.read_bandwidth import sum_of
assert sum_of(np.ones(256, np.float32), 0, 256) == 256
assert "numba.np.npyimpl" in sys.modules
assert tokenizer.encode("abcd" * 3000) == [256, ord("d")] * 3000
"""
SAID = "INFO rwkv_edge.jit compiling kernels for this CPU"


def start(cache: Path, script: str = TOKENIZE) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "RWKV_EDGE_CACHE": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Filled by two processes that began with nothing at the same moment."""
    cache = tmp_path_factory.mktemp("cache") / "kernels"
    for process in [start(cache), start(cache)]:
        assert finish(process).count(SAID) == 1
    return cache


def test_two_cold_processes_leave_a_cache_that_a_third_uses(warm_cache: Path) -> None:
    assert finish(start(warm_cache)) == ""
    assert not list(warm_cache.rglob("*.tmp.*"))


@pytest.mark.parametrize(("pattern", "n_bytes"), [("*.nbi", 0), ("*.nbc", 100)])
def test_damaged_files_are_compiled_again(warm_cache: Path, pattern: str, n_bytes: int) -> None:
    for path in warm_cache.rglob(pattern):
        path.write_bytes(path.read_bytes()[:n_bytes])
    assert SAID in finish(start(warm_cache))
    assert finish(start(warm_cache)) == ""


def test_a_kernel_is_loaded_without_what_compiles_the_next_one(
    warm_cache: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "kernels"
    shutil.copytree(warm_cache, cache)
    assert finish(start(cache, TOKENIZE + LOAD_THEN_COMPILE)).count(SAID) == 1


def test_kernels_run_where_nothing_can_be_kept(tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.touch()
    assert SAID in finish(start(nowhere / "kernels"))


def test_a_full_disk_under_the_cache_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def save_overload(self, signature: object, data: object) -> None:
            raise OSError(28, "No space left on device")

    cache = jit._LazyKernelCache(lambda: None)
    monkeypatch.setattr(jit._LazyKernelCache, "_cache", Full())
    with caplog.at_level(logging.WARNING, "rwkv_edge"):
        cache.save_overload("signature", "data")
    assert "cannot be kept: [Errno 28] No space left" in caplog.text


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, with folders of other releases, some used long ago."""
    monkeypatch.setattr(jit, "cache_directory", lambda: tmp_path)
    jit.kernel_cache_path.cache_clear()
    tier = jit.kernel_cache_path("runtime").name.split("-")[1]
    names = [f"runtime-{tier}-", "runtime-other-", f"converters-{tier}-"]
    for name in names:
        for digest, days in (("0" * 16, 31), ("f" * 16, 29)):
            folder = tmp_path / (name + digest)
            folder.mkdir()
            (folder / "a.nbc").write_bytes(b"kernel")
            os.utime(folder, (time.time() - days * 86400,) * 2)
    (tmp_path / "runtime-notes").mkdir()
    os.utime(tmp_path / "runtime-notes", (0, 0))
    yield tmp_path
    jit.kernel_cache_path.cache_clear()


def test_a_new_folder_takes_the_place_of_those_long_unused(cache_folder: Path) -> None:
    jit.open_kernel_cache.cache_clear()
    opened = jit.open_kernel_cache("runtime")
    jit.open_kernel_cache.cache_clear()
    assert opened.is_dir()
    prefix = opened.name[:-16]
    assert not (cache_folder / f"{prefix}{'0' * 16}").exists()
    # Used of late, of another tier or package, or none of ours.
    others = {f"{prefix}{'f' * 16}", f"runtime-other-{'0' * 16}", "runtime-notes"}
    assert others <= {path.name for path in cache_folder.iterdir()}
    assert len(list(cache_folder.iterdir())) == 7


def test_opening_a_folder_marks_it_as_used(cache_folder: Path) -> None:
    folder = jit.kernel_cache_path("converters")
    folder.mkdir()
    os.utime(folder, (0, 0))
    jit.open_kernel_cache.cache_clear()
    jit.open_kernel_cache("converters")
    jit.open_kernel_cache.cache_clear()
    assert not jit.is_unused(folder)
    # It was there: nothing had to make room.
    assert len(list(cache_folder.glob("converters-*"))) == 3


def test_clearing_removes_kernels_and_nothing_else(cache_folder: Path) -> None:
    jit.clear_kernel_caches()
    assert [path.name for path in cache_folder.iterdir()] == ["runtime-notes"]
    jit.clear_kernel_caches()
