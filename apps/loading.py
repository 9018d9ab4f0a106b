"""Opening a model with something to look at while it takes time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rwkv_edge import Model
from rwkv_edge.apps import console
from rwkv_edge.arch import architecture_of

COMPILING = "compiling kernels for this CPU, which only the first run does (about half a minute)"


@contextlib.contextmanager
def open_model(
    path: Path, backend: str = "numba", threads: int | None = None, *, say_compiling: bool = False
) -> Iterator[Model]:
    """A loaded model, closed afterwards. Raises what `Model.load` raises.

    say_compiling: say that kernels are compiled even where stderr is no terminal.
    """
    with console.busy(f"loading {path.name}"):
        model = Model.load(path, backend, threads)
    with model:
        version = model.hyperparameters.version
        if backend == "numba" and not kernels_are_compiled(version):
            if say_compiling:
                console.note(COMPILING)
            with console.busy(COMPILING):
                # Any token: one call compiles everything that generation needs.
                model.forward([0])
        yield model


def kernels_are_compiled(version: str) -> bool:
    """True if the kernels of an RWKV version are on disk already, as compiled for this CPU."""
    from rwkv_edge.jit import kernel_cache_path

    # The one that calls all others is the last to be written.
    last = f"{architecture_of(version).name}.forward-*.nbc"
    return any(kernel_cache_path("runtime").glob(last))
