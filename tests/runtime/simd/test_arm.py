"""Kernels for ARM64, compiled here whatever this CPU is, and their instructions counted.

None of them is run here: `tests/arm/run_under_qemu.sh` does that.
"""

import json
import os
import subprocess
import sys

import pytest

COUNT_INSTRUCTIONS = """
import json
import re
from collections import Counter

import llvmlite.binding

# numba compiles for the process that it is in: have it believe that this is an ARM64 one.
llvmlite.binding.initialize_all_targets()
llvmlite.binding.initialize_all_asmprinters()
llvmlite.binding.get_process_triple = lambda: "aarch64-unknown-linux-gnu"

import numba
import numpy as np

from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.kernels.matmul import ARGUMENTS
from rwkv_edge.runtime.kernels.matmul_floats import matmul_f16
from rwkv_edge.runtime.kernels.matmul_q4_0 import matmul_q4_0
from rwkv_edge.runtime.kernels.matmul_q8_0 import matmul_q8_0

counts = {}
for kernel, arguments in (
    (matmul_q4_0, ARGUMENTS),
    (matmul_q8_0, ARGUMENTS),
    (matmul_f16, ARGUMENTS),
    (meet, (numba.typeof(np.zeros(64, np.int64)), numba.intp)),
):
    kernel.compile(arguments)
    (assembly,) = kernel.inspect_asm().values()
    counts[kernel.__name__] = Counter(re.findall(r"^\\t([a-z]\\w*)", assembly, re.MULTILINE))
print(json.dumps(counts))
"""


def instructions(features, folder):
    """How often each is in each kernel, compiled for a CPU of these features."""
    foreign = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "RWKV_EDGE_CPU": ""}
    found = subprocess.run(
        [sys.executable, "-c", COUNT_INSTRUCTIONS],
        env={**os.environ, **foreign, "RWKV_EDGE_CACHE": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(found.stdout)


@pytest.mark.parametrize(
    ("features", "q4_0", "q8_0"),
    [
        ("+neon", set(), set()),
        ("+neon,+dotprod", {"sdot"}, {"sdot"}),
    ],
)
def test_dot_products_are_the_instructions_of_the_tier(features, q4_0, q8_0, tmp_path):
    counts = instructions(features, tmp_path)
    dots = {name: {word for word in found if "dot" in word} for name, found in counts.items()}
    assert dots["matmul_q4_0"] == q4_0
    assert dots["matmul_q8_0"] == q8_0
    # Halves are widened, and a spinning thread waits, by instruction too.
    assert counts["matmul_f16"]["fcvtl"] > 0
    assert counts["meet"]["isb"] == 1
