"""A CPU that this machine may not have, in which functions of this process run: Bochs.

The emulated CPU sees the memory of this process at the same addresses: code that numba compiled,
its constants, numpy's arrays, a stack made here. So nothing is loaded, relocated or copied; a
function is called where it lies, and what it writes is there afterwards.
"""

import ctypes
import mmap
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

PAGE, GIGABYTE = 1 << 12, 1 << 30
# Below 4 GB of physical addresses lie devices, such as the interrupt controller.
FIRST_GIGABYTE = 4
STACK_BYTES = 1 << 20
# Bits of page table entries: present, writable; and of those that map a whole gigabyte.
TABLE, GIGABYTE_PAGE = 0x3, 0x83
# What an operating system sets up: long mode with paging, SSE, and the state of AVX and AVX-512.
CR0, EFER = 0x80000033, 0x500
CR4_PAE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE = 1 << 5, 1 << 9, 1 << 10, 1 << 18
XCR0_AVX512 = 0xE7
MXCSR = 0x1F80
CODE_SEGMENT, DATA_SEGMENT = (0x08, 0xA09B), (0x10, 0xC093)
HLT = b"\xf4"
INVALID_OPCODE = 6

# Bochs' numbers of the models that have the instructions of our tiers (its file cpudb.h).
MODELS = {"sapphirerapids": 30, "arrowlake": 31}
LAST_MODEL = 31

# The wheel is linked against names that glibc has had since 2.38; these are what they stand for.
GLIBC_2_38 = """
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
unsigned long long __isoc23_strtoull(const char *text, char **end, int base) {
    return strtoull(text, end, base);
}
int __isoc23_sscanf(const char *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int n = vsscanf(text, format, arguments);
    va_end(arguments);
    return n;
}
"""


class EmulatorError(Exception):
    """The emulated code did what a real CPU would have stopped it for."""


class EmulatorUnavailableError(Exception):
    """Why nothing can be emulated here."""


# Called at an instruction that Bochs does not know, with the address behind it and a reader of
# general registers; says whether it did what the instruction does.
TrapHandler = Callable[[int, Callable[[str], int]], bool]


@cache
def bochscpu() -> Any:
    """The binding's native module. Raises EmulatorUnavailableError where there is none."""
    if sys.platform != "linux" or sysconfig.get_platform() != "linux-x86_64":
        raise EmulatorUnavailableError("kernels are emulated on x86-64 Linux only")
    if not hasattr(ctypes.CDLL(None), "__isoc23_strtoull"):
        _provide_glibc_2_38()
    try:
        from bochscpu import _bochscpu
    except ImportError as error:
        raise EmulatorUnavailableError(f"bochscpu-python cannot be imported: {error}") from None
    return _bochscpu


def _provide_glibc_2_38() -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise EmulatorUnavailableError("bochscpu-python needs glibc 2.38, or a C compiler as `cc`")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "glibc.c"), Path(folder, "glibc.so")
        source.write_text(GLIBC_2_38, encoding="ascii")
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def unavailable() -> str | None:
    """Why nothing can be emulated here; None where it can."""
    try:
        bochscpu()
    except EmulatorUnavailableError as error:
        return str(error)
    return None


def _choose_model(native: ctypes.CDLL, number: int) -> None:
    """Set Bochs' parameter "cpu.model", which the binding has no word for.

    Its range ends at Cannon Lake there, which has no dot product of bytes.
    """
    lookup = native.sim_get_param_enum
    lookup.restype, lookup.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    parameter = ctypes.c_void_p(lookup(b"cpu.model"))
    set_range = native._ZN14bx_param_num_c9set_rangeEmm
    set_range(parameter, ctypes.c_ulong(0), ctypes.c_ulong(LAST_MODEL))
    native._ZN15bx_param_enum_c3setEl(parameter, ctypes.c_long(number))


class _Pages:
    """Zeroed memory that begins at a page."""

    def __init__(self, n_bytes: int) -> None:
        self.memory = mmap.mmap(-1, n_bytes)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.end = self.address + n_bytes


class AddressSpace:
    """Page tables that show the memory of this process where it is.

    Bochs has fewer physical addresses than there are virtual ones. Each gigabyte that the process
    has something in gets a physical gigabyte, and a page of it at its first use.
    """

    N_TABLES = 64

    def __init__(self, memory: Any, stop: Callable[[], None]) -> None:
        """`stop` ends the run after the instruction that asks for nobody's memory."""
        self._memory, self._stop = memory, stop
        self._tables = _Pages(self.N_TABLES * PAGE)
        words = ctypes.c_uint64 * (self.N_TABLES * PAGE // 8)
        self._entries = words.from_address(self._tables.address)
        self._n_tables = 1
        self._physical: dict[int, int] = {}
        self._virtual: dict[int, int] = {}
        self._used: list[range] = []
        # Addresses that were nobody's in this call, by the physical page that stands for them.
        self.strays: dict[int, int] = {}
        self._blank = _Pages(PAGE)
        # The lowest physical addresses are the tables' own; the highest level begins at 0.
        for table in range(self.N_TABLES):
            memory.page_insert(table * PAGE, self._tables.address + table * PAGE)

    def refresh(self) -> None:
        """Follow what the process has mapped since the last call."""
        for page in self.strays:
            self._memory.page_remove(page)
        self.strays.clear()
        with open("/proc/self/maps", encoding="utf-8") as file:
            lines = [line.split() for line in file]
        readable = [fields[0].split("-") for fields in lines if fields[1].startswith("r")]
        self._used = [range(int(first, 16), int(end, 16)) for first, end in readable]
        for span in self._used:
            if span.start >> 47 == 0:  # what lies above is the system's
                for address in range(span.start // GIGABYTE * GIGABYTE, span.stop, GIGABYTE):
                    self._map_gigabyte(address)

    def _map_gigabyte(self, address: int) -> None:
        if address in self._physical:
            return
        top, second = address >> 39 & 511, address >> 30 & 511
        if not self._entries[top]:
            assert self._n_tables < self.N_TABLES
            self._entries[top] = self._n_tables * PAGE | TABLE
            self._n_tables += 1
        physical = (FIRST_GIGABYTE + len(self._physical)) * GIGABYTE
        self._physical[address], self._virtual[physical] = physical, address
        table = self._entries[top] // PAGE
        self._entries[table * 512 + second] = physical | GIGABYTE_PAGE

    def provide(self, physical: int) -> None:
        """Bochs touches this physical page for the first time. Must not raise: Bochs calls it."""
        page = physical // PAGE * PAGE
        gigabyte = self._virtual.get(page // GIGABYTE * GIGABYTE)
        address = -1 if gigabyte is None else gigabyte + page % GIGABYTE
        if any(address in span for span in self._used):
            self._memory.page_insert(page, address)
        else:
            # Reading it would end this process. Show something else; the call is to fail.
            self.strays[page] = address
            self._memory.page_insert(page, self._blank.address)
            self._stop()


def _stopping_hook(hook: Any, exceptions: list[tuple[int, int]]) -> Any:
    """Stop at an exception, which is noted, and at HLT, which a function returns to.

    The hook must not know the CPU that holds it: the binding does not collect cycles, and the
    process would end in a segmentation fault.
    """

    def on_exception(session: Any, cpu: int, vector: int, error_code: int) -> None:
        exceptions.append((vector, error_code))
        session.stop()

    hook.exception = on_exception
    hook.hlt = lambda session, cpu: session.stop()
    return hook


class EmulatedCpu:
    """One core; there can only be one in a process, and its model stays what it was first.

    Calls wait for each other: threads that meet at a barrier would wait for ever.
    """

    def __init__(
        self, model: str, xcr0: int = XCR0_AVX512, trap: TrapHandler | None = None
    ) -> None:
        self._native_module = bochscpu()
        self._native = ctypes.CDLL(self._native_module.__file__)
        _choose_model(self._native, MODELS[model])
        self._session = self._native_module.Session()
        stop = partial(self._native.cpu_set_killbit, 0)
        self._space = AddressSpace(self._native_module.memory, stop)
        self._session.missing_page_handler = self._space.provide
        self._xcr0, self._trap = xcr0, trap
        self._stack, self._end = _Pages(STACK_BYTES), _Pages(PAGE)
        self._end.memory[:1] = HLT
        self._exceptions: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._hook = _stopping_hook(self._native_module.Hook(), self._exceptions)

    def call(
        self, address: int, integers: Sequence[int], floats: Sequence[int] = ()
    ) -> tuple[int, int]:
        """Call the function at `address`, by the System V convention.

        integers: integers and pointers; floats: bits of scalars that go into vector registers (at
        most 8). Returns what it left in RAX, and in the low quarter of XMM0.
        """
        with self._lock:
            self._space.refresh()
            # Bochs keeps decoded code by address, and the compiler may use one again.
            self._native._Z12flushICachesv()
            self._session.cpu.state = self._state(address, integers, floats)
            self._run()
            state = self._session.cpu.state
            return state.rax, state.zmm[0].q[0]

    def _run(self) -> None:
        while True:
            self._exceptions.clear()
            self._session.run([self._hook])
            for address in self._space.strays.values():
                raise EmulatorError(f"read or wrote nobody's memory: {address:#x}")
            if not self._exceptions:
                return
            vector, error_code = self._exceptions[0]
            # Bochs stops behind an instruction that it does not know: running on skips it.
            behind = self._session.cpu.rip
            if vector != INVALID_OPCODE or not self._trapped(behind):
                near = ctypes.string_at(behind - 10, 10).hex(" ")
                where = f"address {self._session.cpu.cr2:#x}, at or behind {near}"
                raise EmulatorError(f"exception {vector} ({error_code:#x}), {where}")

    def _trapped(self, behind: int) -> bool:
        if self._trap is None:
            return False
        return self._trap(behind, lambda name: int(getattr(self._session.cpu, name)))

    def _state(self, address: int, integers: Sequence[int], floats: Sequence[int]) -> Any:
        state = self._native_module.State()
        state.cr0, state.efer, state.cr3 = CR0, EFER, 0
        state.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE
        state.xcr0, state.mxcsr, state.mxcsr_mask = self._xcr0, MXCSR, 0xFFFF
        state.cs = self._segment(*CODE_SEGMENT)
        state.ss = state.ds = state.es = state.fs = state.gs = self._segment(*DATA_SEGMENT)
        registers = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
        words = [value & (1 << 64) - 1 for value in integers]
        for name, value in zip(registers, words, strict=False):
            setattr(state, name, value)
        pushed = [self._end.address, *words[len(registers) :]]
        # At a function's first instruction the address it returns to is 8 below a multiple of 16.
        top = self._stack.end - PAGE
        stack = top - (8 * len(pushed) + 15) // 16 * 16 - 8
        ctypes.memmove(stack, (ctypes.c_uint64 * len(pushed))(*pushed), 8 * len(pushed))
        state.rip, state.rsp, state.rflags = address, stack, 2
        state.zmm = [self._vector(bits) for bits in [*floats, *[0] * (32 - len(floats))]]
        return state

    def _segment(self, selector: int, attributes: int) -> Any:
        segment = self._native_module.Segment()
        segment.present, segment.selector, segment.attr = True, selector, attributes
        segment.base, segment.limit = 0, 0xFFFFFFFF
        return segment

    def _vector(self, low_bits: int) -> Any:
        vector = self._native_module.Zmm()
        vector.q = [low_bits, *[0] * 7]
        return vector
