"""What this CPU can do, and which tier of kernels it gets."""

import os
from functools import cache

import llvmlite.binding

from rwkv_edge.errors import InputError
from rwkv_edge.jit import cpu_tier

# Best first. A tier is a set of instructions that some verb of the vocabulary has a use for.
TIERS: dict[str, frozenset[str]] = {
    "avx512vnni": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "generic": frozenset(),
}


@cache
def cpu_features() -> frozenset[str]:
    """LLVM's names of the features of this CPU."""
    features = llvmlite.binding.get_host_cpu_features()
    return frozenset(name for name, present in features.items() if present)


def cpu_name() -> str:
    """LLVM's name of this CPU's model, such as "sapphirerapids"."""
    return str(llvmlite.binding.get_host_cpu_name())


@cache
def tier() -> str:
    """The best tier that this CPU has, or the one that `RWKV_EDGE_CPU` forces.

    Raises InputError if that one does not exist or would crash here.
    """
    available = [name for name, needed in TIERS.items() if needed <= cpu_features()]
    forced = cpu_tier()
    if forced == "auto":
        return available[0]
    if forced not in TIERS:
        raise InputError(f"RWKV_EDGE_CPU={forced} is not a tier; there are {', '.join(TIERS)}")
    if forced not in available:
        missing = ", ".join(sorted(TIERS[forced] - cpu_features()))
        raise InputError(f"RWKV_EDGE_CPU={forced} needs {missing}, which this CPU lacks")
    return forced


def physical_cores() -> int:
    """Cores that this process may run on; hyper-threads add nothing to memory-bound work."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, _cores_listed_by_linux() or allowed or 1))


def _cores_listed_by_linux() -> int:
    """Distinct (package, core) pairs in /proc/cpuinfo, or 0 where that file says nothing."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = [line.split(":") for line in file if ":" in line]
    except OSError:
        return 0
    pairs: set[tuple[str, str]] = set()
    package = ""
    for key, value in ((line[0].strip(), line[1].strip()) for line in lines):
        if key == "physical id":
            package = value
        elif key == "core id":
            pairs.add((package, value))
    return len(pairs)
