"""The tiers that the CPU here may lack run all the same: compiled for one that has them, emulated.

What a tier compiles to is fixed when numba is imported, so each is a process of its own.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.emulator.bochs import unavailable
from tests.emulator.foreign import FOREIGN_CPUS, environment

# The slowest takes about 60, on a busy machine five times that: for emulated loops without an end.
TIMEOUT_S = 600

KERNEL_OUTPUTS = """
import json
import sys
import numpy as np
from rwkv_edge.runtime.simd.cpu import tier
from tests.emulator import kernel_outputs, plugin
plugin.pytest_configure()
np.savez(sys.argv[1], **kernel_outputs.outputs())
kernels = kernel_outputs.KERNELS.items()
found = {name: sorted(kernel_outputs.dot_instructions(kernel)) for name, kernel in kernels}
print(json.dumps({"tier": tier(), "instructions": found}))
"""


@pytest.fixture(scope="module", params=FOREIGN_CPUS)
def foreign(request, tmp_path_factory):
    """A tier, and the variables of a process on it."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    return request.param, environment(request.param, tmp_path_factory.mktemp("kernels"))


def run_on(variables, *arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_verbs_pass_their_tests(foreign):
    tier, variables = foreign
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.emulator.plugin"]
    codes = "tests/runtime/kernels/test_codes.py"
    files = ["tests/runtime/simd", codes, "tests/emulator/emulated_calls.py"]
    found = run_on(variables, "-m", "pytest", *options, *files)
    assert found.returncode == 0, found.stdout
    # Tiles are skipped elsewhere: here is the CPU that has them.
    assert tier != "amx" or "skipped" not in found.stdout, found.stdout


@pytest.fixture(scope="module")
def emulated(foreign, tmp_path_factory):
    """A tier, the arrays that kernels gave on it, and what they are made of."""
    tier, variables = foreign
    path = tmp_path_factory.mktemp("outputs") / "arrays.npz"
    found = run_on(variables, "-c", KERNEL_OUTPUTS, path)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout.splitlines()[-1])
    assert report["tier"] == tier
    with np.load(path) as arrays:
        return tier, dict(arrays), report["instructions"]


@pytest.fixture(scope="module")
def native():
    from tests.emulator.kernel_outputs import outputs

    return outputs()


def test_kernels_give_the_numbers_of_this_cpu(emulated, native):
    _, arrays, _ = emulated
    assert arrays.keys() == native.keys()
    exact = [name for name in arrays if name.startswith("product")]
    # Two products of each format, and again of those laid out by columns.
    assert len(exact) >= 2 * 5
    for name in (*exact, "codes", "scales", "sums", "half_sums"):
        np.testing.assert_array_equal(arrays[name], native[name], name)
    for name in ("state", "y"):
        # Sums of 64 products of about 1, in float32; the order is the same, fusing may differ.
        np.testing.assert_allclose(arrays[name], native[name], rtol=1e-5, atol=1e-5)


def test_kernels_use_the_instruction_that_their_tier_is_named_for(emulated):
    tier, _, instructions = emulated
    for found in instructions.values():
        if tier in ("amx", "avx512vnni"):
            assert "vpdpbusd zmm" in found
        else:
            assert not any(name.endswith("zmm") for name in found)
