"""What is said while a model is opened."""

import logging
import sys

import pytest

from rwkv_edge.apps.loading import COMPILING, noting_compilation

log = logging.getLogger("rwkv_edge.jit")


@pytest.mark.parametrize(
    ("looks", "everywhere", "is_told"),
    [(True, False, True), (False, False, False), (False, True, True)],
)
def test_who_looks_at_stderr_is_told_why_it_takes_so_long(
    looks: bool,
    everywhere: bool,
    is_told: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: looks)
    with noting_compilation(everywhere=everywhere):
        log.info("compiling kernels for this CPU, which is kept for later runs")
        # The program reports what failed; the library's warnings are for those who log.
        log.warning("compiled kernels cannot be kept")
    log.info("compiling kernels for this CPU, which is kept for later runs")
    assert capsys.readouterr().err == (f"{COMPILING}\n" if is_told else "")
