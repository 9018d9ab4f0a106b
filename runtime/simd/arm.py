"""What an ARM64 CPU has of dot products of bytes: LLVM 22 does not find out, so ask the system."""

import ctypes
import platform
import sys
from functools import cache

# Linux: a word of the auxiliary vector, and the bit that <asm/hwcap.h> calls HWCAP_ASIMDDP.
AT_HWCAP, HWCAP_ASIMDDP = 16, 1 << 20
# Windows: what <winnt.h> calls PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE.
WINDOWS_FEATURE = 43
MACOS_FEATURE = b"hw.optional.arm.FEAT_DotProd"


@cache
def arm_features() -> dict[str, bool]:
    """LLVM's names, and whether this CPU has each; empty where it is not an ARM64 one."""
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return {}
    # All three systems ask for NEON.
    return {"neon": True, "dotprod": _has_dot_products()}


def _has_dot_products() -> bool:
    if sys.platform == "win32":
        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(WINDOWS_FEATURE))
    libc = ctypes.CDLL(None)
    if sys.platform == "darwin":
        return _sysctl(libc, MACOS_FEATURE) != 0
    libc.getauxval.argtypes, libc.getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return bool(libc.getauxval(AT_HWCAP) & HWCAP_ASIMDDP)


def _sysctl(libc: ctypes.CDLL, key: bytes) -> int:
    """A whole number that macOS knows by this name; 0 where it does not."""
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    libc.sysctlbyname(key, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return value.value
