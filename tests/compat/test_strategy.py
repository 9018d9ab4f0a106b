"""Strategy strings: read in full, laid out over layers, and refused with what would work."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from rwkv_edge import BackendUnavailableError, InputError, RwkvEdgeError
from rwkv_edge.compat.strategy import (
    StrategyPart,
    layers_of,
    parse_strategy,
    runnable_weight_type,
)


@pytest.mark.parametrize(
    ("strategy", "parts"),
    [
        ("cpu fp32", [StrategyPart("cpu", "fp32")]),
        ("cpu bf16", [StrategyPart("cpu", "bf16")]),
        ("cpu fp32i8", [StrategyPart("cpu", "fp32", "i8")]),
        ("cuda fp16i4", [StrategyPart("cuda", "fp16", "i4")]),
        ("cuda fp16 *10+", [StrategyPart("cuda", "fp16", "", 10, True)]),
        (
            "cuda fp16i8 *10 -> cpu fp32",
            [StrategyPart("cuda", "fp16", "i8", 10), StrategyPart("cpu", "fp32")],
        ),
        (
            "cuda:0 fp16 *12->cuda:1 fp16 *0+  ->   mps fp32 -> dml bf16 *1 ",
            [
                StrategyPart("cuda:0", "fp16", "", 12),
                StrategyPart("cuda:1", "fp16", "", 0, True),
                StrategyPart("mps", "fp32"),
                StrategyPart("dml", "bf16", "", 1),
            ],
        ),
    ],
)
def test_a_strategy_is_read_in_full(strategy, parts):
    assert parse_strategy(strategy) == parts


@pytest.mark.parametrize(
    "strategy",
    [
        "", "cpu", "fp32", "cpu fp64", "cpu  fp32", "cpu fp32 -> ", "-> cpu fp32", "tpu fp32",
        "cpu fp32 10", "cpu fp32 *", "cpu fp32 *-1", "cpu fp32 *1++", "cpu fp32i2", "cpu:0 fp32",
        "cpu fp32\n", "CPU FP32", "cpu fp32 *9999999999", "cpu fp32 *" + "9" * 5000, None, 7,
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(strategy):
    with pytest.raises(InputError, match="wanted parts such as") as caught:
        parse_strategy(strategy)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1300


# With a model of 4 layers, and the head as a fifth: how many each part gets.
SHARES = {
    "cpu fp32": [5],
    "cpu fp32 *2": [5],
    "cpu fp32 *9": [5],
    "cpu fp32 *0+": [5],
    "cpu fp32 *2 -> cpu bf16": [2, 3],
    "cpu fp32 -> cpu bf16": [2, 3],
    "cpu fp32 -> cpu bf16 -> cpu fp32": [1, 2, 2],
    "cpu fp32 -> cpu bf16 *1": [4, 1],
    "cpu fp32 *2 -> cpu bf16 *1": [2, 3],
    "cpu fp32 *7 -> cpu bf16 *1": [5, 0],
    "cpu fp32 *0+ -> cpu bf16 *1": [4, 1],
    "cpu fp32 *1 -> cpu bf16 *1+ -> cpu fp32 *1": [1, 3, 1],
    "cpu fp32 *1+ -> cpu bf16 *1+": [1, 4],
    "cpu fp32 *4 -> cpu bf16": [4, 1],
}


@pytest.mark.parametrize("strategy", list(SHARES))
def test_layers_go_to_the_parts_as_in_the_official_package(strategy):
    parts = parse_strategy(strategy)
    layers = layers_of(parts, 4)
    assert [sum(layer is part for layer in layers) for part in parts] == SHARES[strategy]


def test_the_official_package_gives_these_shares(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: shares stand unchecked")
    pytest.importorskip("rwkv", reason="rwkv is not installed: shares stand unchecked")
    C = 8
    # Just enough of an RWKV-4 for the official package to lay out; it is never run.
    weights = {"emb.weight": (3, C), "head.weight": (3, C)}
    for norm in ("blocks.0.ln0", "ln_out"):
        weights |= {f"{norm}.weight": (C,), f"{norm}.bias": (C,)}
    for i in range(4):
        weights |= {f"blocks.{i}.{m}.key.weight": (C, C) for m in ("att", "ffn")}
    torch.save({name: torch.ones(shape) for name, shape in weights.items()}, tmp_path / "m.pth")
    script = """
        import itertools, json, sys
        from rwkv.model import RWKV
        def runs(strategy):
            model = RWKV(sys.argv[1], strategy, verbose=False)
            keys = ((str(part.atype), part.stream) for part in model.strategy)
            return [[str(key[0]), sum(1 for _ in same)]
                    for key, same in itertools.groupby(keys, lambda key: key[:1])]
        print(json.dumps({s: runs(s) for s in json.loads(sys.argv[2])}))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "m"),
               json.dumps(list(SHARES))]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RWKV_")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = {"fp32": "torch.float32", "bf16": "torch.bfloat16"}
    for strategy, found in json.loads(done.stdout.splitlines()[-1]).items():
        parts = parse_strategy(strategy)
        wanted = zip(parts, SHARES[strategy], strict=True)
        assert found == [[names[part.precision], n] for part, n in wanted if n], strategy


@pytest.mark.parametrize(
    ("strategy", "weight_type"),
    [
        ("cpu fp32", "F32"),
        ("cpu fp16", "F16"),
        ("cpu bf16", "BF16"),
        ("cpu fp32i8", "Q8_0"),
        ("cpu fp16i8 *3+", "Q8_0"),
        ("cpu fp32 *1 -> cpu fp32", "F32"),
        # The part that cannot be had gets no layer.
        ("cpu fp32 *5 -> cuda fp16 *3", "F32"),
    ],
)
def test_precision_becomes_a_weight_type(strategy, weight_type):
    layers = layers_of(parse_strategy(strategy), 4)
    assert runnable_weight_type(strategy, layers) == weight_type


@pytest.mark.parametrize(
    ("strategy", "error", "names", "would_work"),
    [
        ("cuda fp16", BackendUnavailableError, "cuda fp16 cannot", ["cpu fp16"]),
        ("mps fp32", BackendUnavailableError, "mps fp32 cannot", ["cpu fp32"]),
        ("dml fp32i8", BackendUnavailableError, "dml fp32i8 cannot", ["cpu fp32i8"]),
        (
            "cuda:0 fp16 *2 -> cuda:1 fp16",
            BackendUnavailableError,
            "cuda:0 fp16 cannot",
            ["cpu fp16"],
        ),
        (
            "cpu fp32 *2 -> cuda:1 fp16i8 *0+",
            BackendUnavailableError,
            "cuda:1 fp16i8 cannot",
            ["cpu fp32", "cpu fp16i8"],
        ),
        ("cpu fp32 *2 -> cpu fp32i8", InputError, "one precision", ["cpu fp32", "cpu fp32i8"]),
        ("cpu fp16i4", InputError, "i4", ["cpu fp16"]),
    ],
)
def test_what_cannot_be_had_is_refused_by_name_with_what_works(strategy, error, names, would_work):
    layers = layers_of(parse_strategy(strategy), 4)
    with pytest.raises(error, match=names) as caught:
        runnable_weight_type(strategy, layers)
    message = str(caught.value)
    assert strategy.split(" *")[0] in message
    assert "\n" not in message
    for instead in would_work:
        assert f'"{instead}"' in message
        try:
            runnable_weight_type(instead, layers_of(parse_strategy(instead), 4))
        except RwkvEdgeError as refused:
            pytest.fail(f"{instead} was offered: {refused}")
