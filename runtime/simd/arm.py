"""What an ARM64 CPU has of dot products of bytes: LLVM 22 does not find out, so ask the system."""

import ctypes
import platform
import sys
from functools import cache

# Linux: words of the auxiliary vector, and the bits that <asm/hwcap.h> gives them.
AT_HWCAP, AT_HWCAP2 = 16, 26
LINUX_BITS = {"dotprod": (AT_HWCAP, 1 << 20), "i8mm": (AT_HWCAP2, 1 << 13)}
# Windows: what <winnt.h> calls PF_ARM_V82_DP_ and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE.
WINDOWS_FEATURES = {"dotprod": 43, "i8mm": 66}
MACOS_FEATURES = {
    "dotprod": b"hw.optional.arm.FEAT_DotProd",
    "i8mm": b"hw.optional.arm.FEAT_I8MM",
}


@cache
def arm_features() -> dict[str, bool]:
    """LLVM's names, and whether this CPU has each; empty where it is not an ARM64 one."""
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return {}
    # All three systems ask for NEON.
    return {"neon": True, **_dot_products()}


def _dot_products() -> dict[str, bool]:
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return {name: bool(present(number)) for name, number in WINDOWS_FEATURES.items()}
    libc = ctypes.CDLL(None)
    if sys.platform == "darwin":
        return {name: _sysctl(libc, key) != 0 for name, key in MACOS_FEATURES.items()}
    libc.getauxval.argtypes, libc.getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return {name: libc.getauxval(word) & bit != 0 for name, (word, bit) in LINUX_BITS.items()}


def _sysctl(libc: ctypes.CDLL, key: bytes) -> int:
    """A whole number that macOS knows by this name; 0 where it does not."""
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    libc.sysctlbyname(key, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return value.value
