"""What keeps an engine from running a model, told from its shape and weight types alone.

Importing this imports no engine, so that a file can be described at once. The engines raise what is
said here, with a remedy, and the tests hold it against what they load.
"""

from collections.abc import Callable, Collection

from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.onnx_model_file import HELD_TYPES
from rwkv_edge.quant import QuantFormat
from rwkv_edge.runtime.backends.llama_state import WKV_AXES

Formats = Collection[type[QuantFormat]]
# The channels, and those of a head, are whole vectors.
CHANNEL_UNIT = 16
# Weight types that the numba engine has kernels for, by name: about others the engine itself is
# asked, which takes its import.
WITH_KERNELS = frozenset(
    {
        "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0",
        "IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K",
    }
)  # fmt: skip


def of_numba(hyperparameters: Hyperparameters, formats: Formats) -> str | None:
    """Widths that are no whole vectors, and weight types without kernels."""
    hp = hyperparameters
    for what, n_channels in (("width", hp.n_embd), ("head size", hp.head_size)):
        if n_channels % CHANNEL_UNIT:
            return (
                f"{what} {n_channels} is not a multiple of {CHANNEL_UNIT}, "
                "which the numba backend needs"
            )
    others = [quant for quant in formats if quant.__name__ not in WITH_KERNELS]
    return no_kernels(others) if others else None


def no_kernels(formats: Formats) -> str | None:
    """Weight types that the numba engine cannot multiply with; imports it."""
    from rwkv_edge.runtime.kernels.matmul import packed_format

    missing = []
    for quant in formats:
        try:
            packed_format(quant)
        except UnsupportedModelError:
            missing.append(quant.__name__)
    return f"the numba backend has no kernel for {', '.join(sorted(missing))}" if missing else None


def of_reference(hyperparameters: Hyperparameters, formats: Formats) -> str | None:
    """None: it decodes whatever can be read."""
    del hyperparameters, formats
    return None


def of_llama(hyperparameters: Hyperparameters, formats: Formats) -> str | None:
    """Versions that llama.cpp lacks, or whose states have no known layout in it."""
    del formats
    if hyperparameters.version in WKV_AXES:
        return None
    return f"llama.cpp has no RWKV-{hyperparameters.version}"


def of_onnx(hyperparameters: Hyperparameters, formats: Formats) -> str | None:
    """Weight types that keep a GGUF from becoming an ONNX file, which is what the engine runs."""
    del hyperparameters
    others = {quant.__name__ for quant in formats} - set(HELD_TYPES)
    return f"an ONNX file cannot hold {', '.join(sorted(others))}" if others else None


# By the name of the engine: the sentence, or None where it runs the model.
OBSTACLES: dict[str, Callable[[Hyperparameters, Formats], str | None]] = {
    "numba": of_numba,
    "reference": of_reference,
    "llama": of_llama,
    "onnx": of_onnx,
}
