"""Opening a model with something to look at while it takes time."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from rwkv_edge import Model
from rwkv_edge.apps import console
from rwkv_edge.apps.runnable import Runnable

COMPILING = "compiling kernels for this CPU, which only the first run does (some 15 seconds)"
# What `rwkv_edge.jit` logs, once in a process, when the first kernel is not on disk.
COMPILER_LOG = "rwkv_edge.jit"


class CompilingNote(logging.Handler):
    """Tells who looks at stderr why it takes so long; which command compiles does not matter.

    everywhere: also where nobody looks.
    """

    def __init__(self, everywhere: bool) -> None:
        super().__init__()
        self._everywhere = everywhere

    def emit(self, record: logging.LogRecord) -> None:
        """One line, whatever the library called it."""
        if record.levelno == logging.INFO and (self._everywhere or sys.stderr.isatty()):
            console.note(COMPILING)


@contextlib.contextmanager
def noting_compilation(*, everywhere: bool = False) -> Iterator[None]:
    """Inside, a terminal is told when kernels are compiled, or whatever stderr is."""
    logger, handler = logging.getLogger(COMPILER_LOG), CompilingNote(everywhere)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextlib.contextmanager
def open_model(
    path: Path,
    backend: str | None = None,
    threads: int | None = None,
    *,
    tuned_state: bool | Path = True,
) -> Iterator[Model]:
    """A loaded model, closed afterwards. Raises what `Model.load` raises.

    backend: as `Model.load` takes it; for onnx, a GGUF becomes an ONNX, which is gone afterwards.
    tuned_state: as `Model.load` takes it, or the file of one to begin with.
    """
    with contextlib.ExitStack() as stack:
        runnable = stack.enter_context(Runnable(path, threads)).for_engine(backend)
        with console.busy(f"loading {path.name}"):
            model = Model.load(runnable, backend, threads, tuned_state=tuned_state is True)
        stack.enter_context(model)
        if isinstance(tuned_state, Path):
            from rwkv_edge.converters.adapters import load_tuned_state

            model.begin_with(load_tuned_state(tuned_state, model))
        version = model.hyperparameters.version
        if model.backend.name == "numba" and not kernels_are_compiled(version):
            with console.busy("compiling kernels"):
                # Any token: one call compiles everything that generation needs.
                model.forward([0])
        yield model


def state_to_begin_with(file: Path | None, without: bool) -> bool | Path:
    """What the options --tuned-state and --no-tuned-state mean; raises BadParameter for both."""
    if file is not None and without:
        raise typer.BadParameter("--tuned-state and --no-tuned-state exclude each other")
    return not without if file is None else file


def kernels_are_compiled(version: str) -> bool:
    """True if the kernel that runs an RWKV version is on disk, as compiled for this CPU."""
    from rwkv_edge.jit import is_kept
    from rwkv_edge.runtime.arch import COMPILED

    return is_kept(COMPILED[version].forward)
