"""What this machine and this installation are, for `rwkv-edge doctor`."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.version import __version__

# Features that kernels here use, or will; LLVM's whole list has a hundred.
NOTABLE_FEATURES = (
    "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512vl", "avx512vnni",
    "avx512bf16", "avx512fp16", "amx-tile", "amx-int8", "amx-bf16",
    "neon", "dotprod", "i8mm", "bf16", "fullfp16", "sve",
)  # fmt: skip
# Distribution, the module it installs, and what it is for; what is not there is said.
PACKAGES = (
    ("numpy", "numpy", "required"),
    ("numba", "numba", "required"),
    ("llvmlite", "llvmlite", "required"),
    ("gguf", "gguf", "required"),
    ("safetensors", "safetensors", "required"),
    ("pyrwkv-tokenizer", "pyrwkv_tokenizer", "World vocabulary, for converting"),
    ("tokenizers", "tokenizers", "models with a tokenizer.json: Pile, Raven"),
    ("sentencepiece", "sentencepiece", "models with a sentencepiece tokenizer"),
    ("llama-cpp-python", "llama_cpp", "backend llama"),
    ("onnx", "onnx", "writing ONNX files"),
    ("onnxruntime", "onnxruntime", "backend onnx"),
)


@dataclass(frozen=True)
class Package:
    """version: None where it is not installed."""

    name: str
    version: str | None
    purpose: str


@dataclass(frozen=True)
class Machine:
    """What decides how a model runs here; sizes in bytes, None where the system does not say.

    tier: the set of kernels that the CPU selects; threads: what is used by default.
    onnx_providers: by the names that follow "onnx:" in a backend; none where it is not installed.
    """

    rwkv_edge: str
    python: str
    system: str
    cpu: str
    features: tuple[str, ...]
    tier: str
    threads: int
    memory: int | None
    memory_available: int | None
    kernel_cache: Path
    kernel_cache_bytes: int
    kernels_compiled: bool
    packages: tuple[Package, ...]
    onnx_providers: tuple[str, ...]


def inspect_machine() -> Machine:
    """Look at it; raises InputError if RWKV_EDGE_CPU asks for what the CPU lacks."""
    import platform

    from rwkv_edge.apps.loading import kernels_are_compiled
    from rwkv_edge.arch import ARCHITECTURES
    from rwkv_edge.jit import cache_directory
    from rwkv_edge.runtime.simd.cpu import cpu_features, cpu_name, physical_cores, tier

    present = cpu_features()
    memory, available = memory_bytes()
    return Machine(
        rwkv_edge=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu_name(),
        features=tuple(name for name in NOTABLE_FEATURES if name in present),
        tier=tier(),
        threads=physical_cores(),
        memory=memory,
        memory_available=available,
        kernel_cache=cache_directory(),
        kernel_cache_bytes=folder_bytes(cache_directory()),
        kernels_compiled=all(kernels_are_compiled(a.versions[-1]) for a in ARCHITECTURES.values()),
        packages=tuple(
            Package(name, version_of(name, module), purpose) for name, module, purpose in PACKAGES
        ),
        onnx_providers=onnx_providers(),
    )


def version_of(distribution: str, module: str) -> str | None:
    """The installed version; None if there is none. Nothing is imported."""
    # Here, because these 40 ms would be felt in every `--help`.
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    if module not in sys.modules and importlib.util.find_spec(module) is None:
        return None
    try:
        return version(distribution)
    except PackageNotFoundError:
        # Some modules come in several distributions: onnxruntime-gpu, onnxruntime-directml.
        others = packages_distributions().get(module)
        return version(others[0]) if others else "unknown"


def onnx_providers() -> tuple[str, ...]:
    """What onnxruntime can run on, as it says itself."""
    from rwkv_edge.errors import BackendUnavailableError
    from rwkv_edge.runtime.backends.onnx import available_providers, short_name

    try:
        return tuple(short_name(provider) for provider in available_providers())
    except BackendUnavailableError:
        return ()


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder; 0 if there is none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # another process cleans up
    return total


def memory_bytes() -> tuple[int | None, int | None]:
    """All memory, and what is available now."""
    if sys.platform == "win32":
        return windows_memory_bytes()
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None, None
    return total, linux_available_bytes()


def linux_available_bytes() -> int | None:
    """`MemAvailable`, which counts the page cache; None elsewhere."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name == "MemAvailable":
                    return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def windows_memory_bytes() -> tuple[int | None, int | None]:
    """By GlobalMemoryStatusEx."""
    import ctypes

    class MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load_percent", ctypes.c_uint32),
            ("total_physical", ctypes.c_uint64),
            ("available_physical", ctypes.c_uint64),
            ("others", ctypes.c_uint64 * 5),
        )

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    # Looked up by name, because only Windows has it.
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009
    if not kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return int(status.total_physical), int(status.available_physical)
