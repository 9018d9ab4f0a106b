"""Engines behind the one protocol of `rwkv_edge.backend`, by name."""

from collections.abc import Callable

from rwkv_edge.backend import Backend
from rwkv_edge.errors import InputError
from rwkv_edge.model_file import ModelFile


def _numba(model: ModelFile, threads: int | None) -> Backend:
    from rwkv_edge.runtime.backends.numba_cpu import NumbaBackend

    return NumbaBackend(model, threads)


def _reference(model: ModelFile, threads: int | None) -> Backend:
    from rwkv_edge.runtime.backends.reference import ReferenceBackend

    del threads  # numpy decides
    return ReferenceBackend(model)


def _llama(model: ModelFile, threads: int | None) -> Backend:
    from rwkv_edge.runtime.backends.llama_cpp import LlamaCppBackend

    return LlamaCppBackend(model, threads)


# Explicit, because a frozen desktop build misses imports made from strings; each imports its
# engine when it is asked for.
BACKENDS: dict[str, Callable[[ModelFile, int | None], Backend]] = {
    "numba": _numba,
    "reference": _reference,
    "llama": _llama,
}


def load_backend(name: str, model: ModelFile, threads: int | None = None) -> Backend:
    """Load a checked file into an engine. threads=None means one per physical core.

    Raises InputError for a name that does not exist, BackendUnavailableError for one that is not
    installed.
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} does not exist; there are {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it takes at least 1")
    return BACKENDS[name](model, threads)


__all__ = ["BACKENDS", "load_backend"]
