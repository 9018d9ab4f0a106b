"""A model's largest kernel, compiled by a process of its own while this one compiles the others.

numba compiles one kernel at a time in a process, whatever its threads do. The kernel that takes a
block of tokens through the layers takes as long as all those that pack and multiply one type of
weights, and the cache on disk hands it over.
"""

import contextlib
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba

from rwkv_edge.jit import is_kept, open_kernel_cache, say_that_kernels_are_compiled
from rwkv_edge.runtime.arch import COMPILED

# Isolated, so that what it imports comes from where this process found its own, and from nowhere
# else: `sys.path` is its first line of input.
CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline());"
    f"from {__name__} import compile_from_stdin; compile_from_stdin()"
)
# Many times what it takes. Whoever waits for longer compiles the kernel without help.
PATIENCE_SECONDS = 120


@contextlib.contextmanager
def compiled_ahead(version: str, arguments: tuple[object, ...], n_cores: int) -> Iterator[None]:
    """Inside, another process compiles `forward` of a version, which is on disk afterwards.

    arguments: some of the types that it will be called with.
    Nothing happens if it is there already, if there is or shall be used only one core, or if there
    is no interpreter to call: it is compiled where it is first called, as any other kernel.
    """
    if n_cores == 1 or is_kept(COMPILED[version].forward):
        yield
        return
    process = start(version, tuple(numba.typeof(argument) for argument in arguments))
    if process is None:
        yield
        return
    say_that_kernels_are_compiled()
    with process:
        try:
            yield
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        except BaseException:
            process.kill()
            raise


def start(version: str, types: tuple[Any, ...]) -> "subprocess.Popen[bytes] | None":
    """The process, or None where there cannot be one."""
    interpreter = python_interpreter()
    if interpreter is None:
        return None
    try:
        open_kernel_cache("runtime")
        process = subprocess.Popen(
            [interpreter, "-I", "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A desktop app has no console, and none shall open.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError:
        return None
    assert process.stdin is not None
    # If it has ended already, nothing was compiled, and whoever waits will not wait long.
    with contextlib.suppress(OSError), process.stdin as stdin:
        stdin.write(json.dumps(sys.path).encode() + b"\n" + pickle.dumps((version, types)))
    return process


def python_interpreter() -> str | None:
    """The command that started this process, if that is Python and not an app that contains it."""
    is_python = Path(sys.executable or "").stem.lower().startswith("python")
    return sys.executable if is_python and not getattr(sys, "frozen", False) else None


def compile_from_stdin() -> None:
    """What the process does; the pickle is from the one that started it."""
    version, types = pickle.load(sys.stdin.buffer)
    forward: Any = COMPILED[version].forward
    forward.compile(types)
