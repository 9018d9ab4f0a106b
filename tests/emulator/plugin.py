"""A pytest plugin that has compiled functions run in the emulator: `-p tests.emulator.plugin`.

What tests call is then compiled for the CPU that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name, and
executed by Bochs, in the thread that called. Tests need not know.
"""

from typing import Any

from numba.core.registry import CPUDispatcher

from tests.emulator.calls import run


def _call(self: Any, *args: Any, **keywords: Any) -> Any:
    assert not keywords, "the emulator takes arguments by position"
    return run(self, *args)


def pytest_configure() -> None:
    """Put `run` in place of numba's own call."""
    CPUDispatcher.__call__ = _call
