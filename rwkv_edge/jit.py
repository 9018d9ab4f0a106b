"""All numba options in one place, and where compiled kernels are kept.

This and `jit_parts.py` are the only modules of `rwkv_edge` that import numba; nothing imports them
before a kernel is needed. Importing a module of kernels compiles nothing: compilation happens at
the first call.
"""

import gc
import hashlib
import logging
import os
import pickle
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numba
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    NullCache,
    _CacheLocator,
)

from rwkv_edge.jit_parts import call_as_part, caller_is_exact, part

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

# Fused multiply-add, and nothing that reorders sums (vectors are explicit, nothing would be gained)
# or promises that there is no NaN: one in a damaged file must stay one.
FAST_MATH = {"contract"}
# Division by zero gives infinity, as in numpy. Kernels count no references: they allocate nothing,
# their callers keep the arrays alive, and counting would be much of what there is to compile.
# Nobody calls them from C either.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "_nrt": False,
    "no_cfunc_wrapper": True,
}


@cache
def cache_directory() -> Path:
    """Where compiled kernels live; `RWKV_EDGE_CACHE` overrides the platform's place."""
    chosen = os.environ.get("RWKV_EDGE_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rwkv-edge" / "kernels"


# Folders whose code one kernel may be compiled from, by the package that the kernel is in.
KERNEL_FOLDERS = {
    "runtime": ("runtime/simd", "runtime/kernels", "runtime/arch"),
    "converters": ("converters/kernels",),
}
# Where their constants come from, and their options.
SHARED_SOURCES = ("jit.py", "jit_parts.py", "hyperparameters.py", "arch/*.py", "quant/*.py")
DIGEST_LEN = 16
# Kernels of other releases are kept for as long: going back to one should not compile again.
UNUSED_SECONDS = 30 * 24 * 3600


@cache
def kernel_cache_path(package: str) -> Path:
    """The folder for the compiled kernels of "runtime" or "converters", on this tier.

    It is named by a digest of all that they may be compiled from. numba itself looks at the file of
    a kernel alone, which would let it survive a change in the vocabulary that it inlines.
    """
    # Here, because which tier there is must be asked of LLVM, and only a kernel needs to know.
    from rwkv_edge.runtime.simd.cpu import tier

    digest = hashlib.sha256(f"{numba.__version__} {sys.version} {platform.machine()}".encode())
    here = Path(__file__).resolve().parent
    # The packages lie beside this one in a checkout, and in it once installed.
    root = here if (here / package).is_dir() else here.parent
    sources = [path for pattern in SHARED_SOURCES for path in here.glob(pattern)]
    sources += [path for name in KERNEL_FOLDERS[package] for path in (root / name).glob("*.py")]
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return cache_directory() / f"{package}-{tier()}-{digest.hexdigest()[:DIGEST_LEN]}"


@cache
def open_kernel_cache(package: str) -> Path:
    """Make that folder and mark it as used; where it is new, those long unused go.

    Raises OSError if nothing can be written there.
    """
    folder = kernel_cache_path(package)
    is_new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    if is_new:
        of_this_tier = folder.name[:-DIGEST_LEN]
        for other in kernel_caches():
            if other.name.startswith(of_this_tier) and is_unused(other):
                # Another process may be at it too: whatever is left goes the next time.
                shutil.rmtree(other, ignore_errors=True)
    return folder


def kernel_caches() -> Iterator[Path]:
    """All folders of compiled kernels, of this release, tier and interpreter or another."""
    for package in KERNEL_FOLDERS:
        yield from cache_directory().glob(f"{package}-*-{'[0-9a-f]' * DIGEST_LEN}")


def is_unused(folder: Path) -> bool:
    """Has nobody opened it for a month? False if it has gone."""
    try:
        return time.time() - folder.stat().st_mtime > UNUSED_SECONDS
    except OSError:
        return False


def is_kept(function: Callable[..., Any]) -> bool:
    """Is a kernel of `runtime` on disk, as compiled for this CPU and whatever arguments?"""
    module = function.__module__.rpartition(".")[-1]
    pattern = f"{module}.{function.__qualname__}-*.nbc"
    return any(kernel_cache_path("runtime").glob(pattern))


def clear_kernel_caches() -> None:
    """Remove all compiled kernels, which running processes do not mind; raises OSError."""
    for folder in kernel_caches():
        shutil.rmtree(folder)


class _KernelLocator(_CacheLocator):  # type: ignore[misc]
    """Puts a kernel's cache below `cache_directory()`, by tier and by digest of the sources."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        folder = Path(py_file).parent
        self._package = next(package for package in KERNEL_FOLDERS if package in folder.parts)
        self._path = kernel_cache_path(self._package)
        # Two modules may share a stem (`arch/rwkv7.py`, `kernels/rwkv7.py`): name the folder too.
        self._disambiguator = f"{folder.name}-{py_func.__code__.co_firstlineno}"

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return self._path.name

    def get_disambiguator(self) -> str:
        return self._disambiguator

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_KernelLocator | None":
        locator = cls(py_func, py_file)
        try:
            open_kernel_cache(locator._package)
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator


class _KernelCacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_KernelLocator,)


class _KernelCacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """An index of signatures, and a file for each; several processes may write at once.

    One that cannot be read, or that a crash of the system cut off, is as good as none.
    """

    def _load_index(self) -> dict[Any, str]:
        try:
            return dict(super()._load_index())
        except (OSError, EOFError, pickle.UnpicklingError):
            return {}

    def _load_data(self, name: str) -> Any:
        try:
            return super()._load_data(name)
        except (EOFError, pickle.UnpicklingError) as error:
            raise OSError(f"{name} is damaged") from error

    def save(self, key: Any, data: Any) -> None:
        """Put a compiled signature on disk.

        numba numbers the files, which would give two signatures that two processes compile at once
        the same one. Here the number says which it is, and the index never runs ahead of the file.
        """
        number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")
        name = self._data_name(number)
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})


class _KernelCache(FunctionCache):  # type: ignore[misc]
    _impl_class = _KernelCacheImpl

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = _KernelCacheFile(
            locator.get_cache_path(), self._impl.filename_base, locator.get_source_stamp()
        )

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """A compiled kernel from disk, or None.

        numba would first gather all functions that it knows how to compile, which takes longer than
        everything else. Machine code needs none of them, and the compiler gathers them itself.
        """
        with self._guard_against_spurious_io_errors():
            return self._load_overload(signature, target_context)


@cache
def say_that_kernels_are_compiled() -> None:
    """Once in a process: it takes so long that people wonder."""
    log.info("compiling kernels for this CPU, which is kept for later runs")


class _LazyKernelCache:
    """Opens the cache at the first call: decorating a kernel must not touch the disk."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def _cache(self) -> Any:
        from rwkv_edge.runtime.simd.cpu import bind_compiler_to_tier

        # Before the first kernel is compiled or loaded, which is when this is asked for.
        bind_compiler_to_tier()
        try:
            return _KernelCache(self._function)
        except RuntimeError:
            # numba's word for "no locator": nowhere to write. Compile every time rather than fail.
            return NullCache()

    @property
    def cache_path(self) -> Any:
        return self._cache.cache_path

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        found = self._cache.load_overload(signature, target_context)
        if found is None:
            say_that_kernels_are_compiled()
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            self._cache.save_overload(signature, data)
        except OSError as error:
            log.warning("compiled kernels cannot be kept: %s", error)

    def flush(self) -> None:
        self._cache.flush()


@overload
def kernel(function: Function, /) -> Function: ...


@overload
def kernel(*, exact: bool) -> Callable[[Function], Function]: ...


def kernel(
    function: Function | None = None, /, *, exact: bool = False
) -> Function | Callable[[Function], Function]:
    """Compile `function` at its first call, without the GIL, and keep the result on disk.

    What other kernels call becomes a part of them, and is kept with them.

    Arrays are not bounds-checked, and division by zero gives infinity as in numpy: whoever calls a
    kernel has checked shapes and ranges.

    exact: `@kernel(exact=True)` rounds every operation on its own, as numpy does. For encoders,
    whose bytes are defined by numpy; a fused multiply-add would move ties.
    """

    fast_math = False if exact else FAST_MATH

    def compiled(function: Function) -> Function:
        dispatcher = numba.njit(**OPTIONS, fastmath=fast_math)(function)
        dispatcher._cache = _LazyKernelCache(function)
        dispatcher.compile = _without_collecting(dispatcher.compile)
        # Whether it vanishes into its callers is LLVM's choice, also in pieces that always do.
        options = {**OPTIONS, "fastmath": fast_math, "forceinline": False}
        call_as_part(dispatcher, cache(lambda: part(function, options)))
        return cast(Function, dispatcher)

    return compiled if function is None else compiled(function)


def _without_collecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same while Python collects no garbage: a compiler makes so many objects that looking
    through them again and again takes a tenth of its time. What it leaves is collected later.
    """

    def uncollected(*args: Any) -> Any:
        collects = gc.isenabled()
        gc.disable()
        try:
            return function(*args)
        finally:
            if collects:
                gc.enable()

    return uncollected


def inline(function: Function) -> Function:
    """A piece of a kernel, with a name, that vanishes into its callers.

    It rounds as its caller does.
    """

    @cache
    def piece(exact: bool) -> Any:
        fast_math = False if exact else FAST_MATH
        return part(function, {**OPTIONS, "fastmath": fast_math, "forceinline": True})

    dispatcher = numba.njit(**OPTIONS, fastmath=FAST_MATH)(function)
    call_as_part(dispatcher, lambda: piece(caller_is_exact()))
    return cast(Function, dispatcher)
