"""Engines behind the one protocol of `rwkv_edge.backend`, by name."""

from collections.abc import Callable

from rwkv_edge.backend import Backend
from rwkv_edge.errors import InputError
from rwkv_edge.model_file import ModelFile
from rwkv_edge.model_metadata import ModelMetadata
from rwkv_edge.onnx_model_file import OnnxModelFile


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


def _onnx(model: OnnxModelFile, threads: int | None, provider: str | None) -> Backend:
    from rwkv_edge.runtime.backends.onnx import OnnxBackend

    return OnnxBackend(model, threads, provider)


ONNX = "onnx"
# Between the name of that engine and one of onnxruntime's execution providers.
COLON = ":"
# Those that run a GGUF. Explicit, because a frozen desktop build misses imports made from strings;
# each imports its engine when it is asked for.
GGUF_BACKENDS: dict[str, Callable[[ModelFile, int | None], Backend]] = {
    "numba": _numba,
    "reference": _reference,
    "llama": _llama,
}
BACKENDS = (*GGUF_BACKENDS, ONNX)


def load_backend(name: str, model: ModelMetadata, threads: int | None = None) -> Backend:
    """Load a checked file into an engine. threads=None means one per physical core.

    name: one of `BACKENDS`, or "onnx:" and the name of an execution provider of onnxruntime.
    Raises InputError for a name that does not exist or a file that the engine does not take,
    BackendUnavailableError for an engine that is not installed.
    """
    engine, colon, provider = name.partition(COLON)
    if engine not in BACKENDS or (colon and (engine != ONNX or not provider)):
        raise InputError(
            f"backend {name!r} does not exist; there are {', '.join(BACKENDS)} and onnx:PROVIDER"
        )
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it takes at least 1")
    require_file(engine, model)
    if isinstance(model, OnnxModelFile):
        return _onnx(model, threads, provider or None)
    assert isinstance(model, ModelFile)
    return GGUF_BACKENDS[engine](model, threads)


def require_file(engine: str, model: ModelMetadata) -> None:
    """Raise InputError for a file that is not of the kind that an engine runs."""
    is_onnx = isinstance(model, OnnxModelFile)
    if engine == ONNX and not is_onnx:
        raise InputError(
            f"{model.path}: the onnx backend runs ONNX files; make one with rwkv-edge convert "
            f"{model.path} --onnx"
        )
    if engine != ONNX and is_onnx:
        raise InputError(
            f"{model.path}: the {engine} backend runs GGUF files; an ONNX takes --backend onnx"
        )


def engine_of(name: str) -> str:
    """The engine that a name of `load_backend` means: onnx:cuda is onnx."""
    return name.partition(COLON)[0]


def require_onnxruntime(name: str) -> None:
    """Raise BackendUnavailableError unless it is here, with the provider that the name has."""
    from rwkv_edge.runtime.backends.onnx import available_providers, providers_for

    providers_for(name.partition(COLON)[2] or None, available_providers())


__all__ = ["BACKENDS", "engine_of", "load_backend", "require_file", "require_onnxruntime"]
