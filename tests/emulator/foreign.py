"""CPUs that stand for the tiers of kernels: how to compile for one, and which model emulates it."""

import os
from pathlib import Path
from typing import NamedTuple

from rwkv_edge.runtime.simd.cpu import TIERS


class ForeignCpu(NamedTuple):
    """A CPU that has a tier, and none better: LLVM's name of it, and Bochs' model."""

    llvm_name: str
    bochs_model: str


FOREIGN_CPUS = {
    "amx": ForeignCpu("sapphirerapids", "sapphirerapids"),
    "avx512vnni": ForeignCpu("cascadelake", "sapphirerapids"),
    "avxvnni": ForeignCpu("alderlake", "arrowlake"),
}
# What every CPU with AVX2 has beside it.
COMMON_FEATURES = (
    "64bit", "avx", "bmi", "bmi2", "cmov", "cx16", "cx8", "fxsr", "lzcnt", "mmx", "movbe", "popcnt",
    "sse", "sse2", "sse3", "sse4.1", "sse4.2", "ssse3",
)  # fmt: skip


def environment(tier: str, kernel_cache: Path) -> dict[str, str]:
    """Variables of a process whose kernels are compiled for the CPU of this tier.

    A process of its own: numba reads them when it is imported.
    """
    features = sorted(TIERS[tier].union(COMMON_FEATURES))
    return {
        **os.environ,
        "NUMBA_CPU_NAME": FOREIGN_CPUS[tier].llvm_name,
        "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in features),
        "RWKV_EDGE_CPU": "auto",
        "RWKV_EDGE_CACHE": str(kernel_cache),
    }
