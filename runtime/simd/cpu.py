"""What this CPU can do, which tier of kernels it gets, and what the compiler may use for it."""

import ctypes
import os
import platform
import sys
from functools import cache

import llvmlite.binding
import numba
from numba.core.registry import cpu_target

from rwkv_edge.errors import InputError
from rwkv_edge.runtime.simd.arm import arm_features

AVX2 = frozenset({"avx2", "fma", "f16c"})
AVX512_VNNI = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512vnni"}
# Best first. A tier is a set of instructions that some verb of the vocabulary has a use for.
TIERS: dict[str, frozenset[str]] = {
    "amx": AVX512_VNNI | {"amx-tile", "amx-int8"},
    "avx512vnni": AVX512_VNNI,
    "avxvnni": AVX2 | {"avxvnni"},
    "avx2": AVX2,
    "dotprod": frozenset({"neon", "dotprod"}),
    "generic": frozenset(),
}
# What the compiler must not use of its own accord in a tier below; LLVM's names begin so.
BEYOND = {
    "avx512vnni": ("amx",),
    "avxvnni": ("amx", "avx512", "avx10"),
    "avx2": ("amx", "avx512", "avx10", "avxvnni"),
}
# LLVM's names of the plainest CPU of an architecture, for the generic tier when it is forced.
PLAINEST_CPU = {"x86_64": "x86-64", "AMD64": "x86-64"}
# Linux's arch_prctl on x86-64: ask for a part of the CPU state that is off at first; tile data.
SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18


@cache
def all_features() -> dict[str, bool]:
    """LLVM's names of features, and which of them the CPU has that kernels are compiled for.

    It is this one, unless `NUMBA_CPU_FEATURES` names those of another.
    """
    foreign = numba.config.CPU_FEATURES
    if foreign is not None:
        return {name[1:]: name[0] == "+" for name in foreign.split(",") if name}
    return {**llvmlite.binding.get_host_cpu_features(), **arm_features()}


def cpu_features() -> frozenset[str]:
    """Those that it has."""
    return frozenset(name for name, present in all_features().items() if present)


def cpu_name() -> str:
    """LLVM's name of that CPU's model, such as "sapphirerapids"."""
    return str(numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name())


@cache
def present_tiers() -> tuple[str, ...]:
    """The tiers that run here, best first."""
    features = cpu_features()
    names = [name for name, needed in TIERS.items() if needed <= features]
    return tuple(name for name in names if name != "amx" or tiles_permitted())


def tiles_permitted() -> bool:
    """Ask the system for the registers of AMX, which hold 8 KB more for each thread.

    Must be asked before threads start: the answer holds for those that begin later. Code that is
    compiled for another CPU does not run on this system, which is then not asked.
    """
    if numba.config.CPU_FEATURES is not None:
        return True
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    return int(libc.syscall(*(ctypes.c_long(a) for a in arguments))) == 0


def forced_tier() -> str | None:
    """What `RWKV_EDGE_CPU` says."""
    return os.environ.get("RWKV_EDGE_CPU") or None


@cache
def tier() -> str:
    """The best tier that this CPU has, or the one that `RWKV_EDGE_CPU` forces.

    Raises InputError if that one does not exist or would crash here.
    """
    forced = forced_tier()
    if forced in (None, "auto"):
        return present_tiers()[0]
    if forced not in TIERS:
        raise InputError(f"RWKV_EDGE_CPU={forced} is not a tier; there are {', '.join(TIERS)}")
    if forced not in present_tiers():
        missing = ", ".join(sorted(TIERS[forced] - cpu_features())) or "the system's permission"
        raise InputError(f"RWKV_EDGE_CPU={forced} needs {missing}, which this CPU lacks")
    return forced


def has(*features: str) -> bool:
    """May verbs use these instructions? In the tier that names them, and in those above it."""
    return TIERS[tier()].issuperset(features)


@cache
def bind_compiler_to_tier() -> None:
    """Tell numba which instructions it may use, where it would not find out by itself.

    A forced tier must not have ones beyond it, which LLVM would use of its own accord: it would be
    that of its verbs alone. An ARM64 CPU has some that LLVM does not ask for.
    Holds for all of numba in this process, from the first kernel that is compiled on.
    """
    chosen, forced = tier(), forced_tier() not in (None, "auto")
    if forced and chosen == "generic":
        numba.config.CPU_NAME = PLAINEST_CPU.get(platform.machine(), "generic")
        numba.config.CPU_FEATURES = ""
        cpu_target.target_context.init()
        return
    beyond = BEYOND.get(chosen, ()) if forced else ()
    if not beyond and not arm_features():
        return
    # Also what the CPU lacks: LLVM takes a model's name for all that the model may have.
    kept = {n: it and not n.startswith(beyond) for n, it in sorted(all_features().items())}
    numba.config.CPU_NAME = cpu_name()
    numba.config.CPU_FEATURES = ",".join(f"{'+' if keep else '-'}{n}" for n, keep in kept.items())
    # Anew: numba made its compiler when the first kernel was decorated, before it could know.
    cpu_target.target_context.init()


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
