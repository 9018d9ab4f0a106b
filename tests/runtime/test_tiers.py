"""Every tier of kernels that this CPU has gives the same numbers as the others."""

import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.builtin import checkpoint_path, heldout_path
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.runtime.simd.cpu import PLAINEST_CPU, present_tiers

# A tier is chosen when kernels are compiled: each needs a process of its own.
LOGITS = """
import sys
import numpy as np
from rwkv_edge import Model
from rwkv_edge.runtime.simd.cpu import tier
print(tier())
tokens = np.load(sys.argv[1])
rows = []
for path in sys.argv[3:]:
    with Model.load(path, threads=1) as model:
        rows.append(model.forward(tokens, all_logits=True)[0])
np.save(sys.argv[2], np.stack(rows))
"""
ASSEMBLY = """
import numpy as np
from rwkv_edge.runtime.kernels.elementwise import add
x = np.zeros(16, np.float32)
add(x, x, 0, 16)
print(*add.inspect_asm().values())
"""
WEIGHT_TYPES = ("Q4_0", "Q8_0", "F16")


def logits_on(tier, folder, paths):
    out = folder / f"{tier}.npy"
    found = subprocess.run(
        [sys.executable, "-c", LOGITS, str(folder / "tokens.npy"), str(out), *map(str, paths)],
        env={**os.environ, "RWKV_EDGE_CPU": tier},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == tier
    return np.load(out)


def test_all_tiers_give_the_same_numbers(tmp_path):
    shape = synthetic_hyperparameters(2, 128, n_ffn=448, n_vocab=256, ranks=(32, 32, 32, 64))
    write_synthetic(tmp_path / "m.pth", shape, seed=2)
    paths = [tmp_path / f"{weight_type}.gguf" for weight_type in WEIGHT_TYPES]
    for path, weight_type in zip(paths, WEIGHT_TYPES, strict=True):
        convert(tmp_path / "m.pth", path, weight_type)
    tokens = np.random.default_rng(4).integers(0, 256, 21).astype(np.int32)
    np.save(tmp_path / "tokens.npy", tokens)

    present = present_tiers()
    results = {name: logits_on(name, tmp_path, paths) for name in present}
    best = results[present[0]]
    spread = best.max() - best.min()
    for name in present[1:]:
        difference = np.abs(results[name] - best).max(axis=-1) / spread
        q4_0, q8_0, f16 = (difference[WEIGHT_TYPES.index(kind)] for kind in ("Q4_0", "Q8_0", "F16"))
        assert f16.max() < 1e-6, name
        # The dot products are whole numbers, the same on all: only float32 rounding may differ. An
        # activation at the edge between two codes may then take the other one, a step of 1 in 127,
        # which its token and those after it show.
        for quantized in (q4_0, q8_0):
            assert np.median(quantized) < 1e-6 or quantized[:5].max() < 1e-6, name
            assert quantized.max() < 1e-2, name
    with Model.load(paths[2], backend="reference") as reference:
        wanted, _ = reference.forward(tokens, all_logits=True)
    assert np.abs(best[2] - wanted).max() < 1e-4 * spread


PERPLEXITY = """
import io
import sys
from rwkv_edge import Model
from rwkv_edge.perplexity import measure_perplexity
with Model.load(sys.argv[1]) as model:
    print(repr(measure_perplexity(model, io.BytesIO(open(sys.argv[2], "rb").read())).nats))
"""


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
def test_perplexity_of_the_built_in_model_is_that_of_every_tier(tmp_path, weight_type):
    convert(checkpoint_path(), tmp_path / "m.gguf", weight_type)
    (tmp_path / "text").write_bytes(heldout_path().read_bytes()[:6000])
    nats = {}
    for tier in present_tiers():
        found = subprocess.run(
            [sys.executable, "-c", PERPLEXITY, str(tmp_path / "m.gguf"), str(tmp_path / "text")],
            env={**os.environ, "RWKV_EDGE_CPU": tier},
            check=True,
            capture_output=True,
            text=True,
        )
        nats[tier] = float(found.stdout)
    best = nats[present_tiers()[0]]
    for tier, found in nats.items():
        assert abs(found / best - 1) < 1e-3, tier


def test_a_tier_that_does_not_exist_is_refused_by_name(tmp_path):
    code = "from rwkv_edge.runtime.simd.cpu import tier; tier()"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RWKV_EDGE_CPU": "altivec"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert "RWKV_EDGE_CPU=altivec is not a tier" in found.stderr


@pytest.mark.parametrize("name", present_tiers())
def test_dot_products_of_each_tier_are_exact(name):
    tests = "tests/runtime/simd/test_vectors.py"
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tests, "-p", "no:cacheprovider"],
        env={**os.environ, "RWKV_EDGE_CPU": name},
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", present_tiers()[1:])
def test_products_of_every_weight_type_are_exact_on_each_tier(name):
    """The best one is that of the other tests."""
    folder = "tests/runtime/kernels"
    files = [f"{folder}/test_codes.py", f"{folder}/test_matmul.py"]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files, "-k", "extremes or codes"],
        env={**os.environ, "RWKV_EDGE_CPU": name},
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.skipif(platform.machine() not in PLAINEST_CPU, reason="other CPUs have one width")
def test_a_forced_tier_keeps_the_compiler_from_wider_registers(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", ASSEMBLY],
        env={**os.environ, "RWKV_EDGE_CPU": "generic", "RWKV_EDGE_CACHE": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(re.findall("[xyz]mm", found.stdout)) == {"xmm"}
