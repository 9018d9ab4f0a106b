"""Engines take turns, and what is counted is what was measured."""

from pathlib import Path

import pytest

from rwkv_edge import InputError, Model
from rwkv_edge.benchmark import (
    measure_batch,
    measure_decode,
    measure_load,
    measure_prefill,
    take_turns,
)
from rwkv_edge.model_file import ModelFile


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_edge.benchmark.REST_S", 0)


def test_engines_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []

    def engine(name: str, samples: list[float]) -> float:
        turns.append(name)
        return samples[turns.count(name) - 1]

    a, b = [1000.0, 4.0, 8.0, 6.0], [0.0, 3.0, 1.0, 2.0]
    found = take_turns(
        "decode", 1, "tok/s", {"a": lambda: engine("a", a), "b": lambda: engine("b", b)}, 3
    )
    assert turns == ["a", "b"] * 4
    assert found.samples == {"a": (4.0, 8.0, 6.0), "b": (3.0, 1.0, 2.0)}
    assert found.medians == {"a": 6.0, "b": 2.0}
    assert found.ratio == 3.0


def test_a_ratio_needs_two_engines_and_a_speed() -> None:
    assert take_turns("decode", 1, "tok/s", {"a": lambda: 1.0}, 1).ratio is None
    assert take_turns("load", 1, "s", {"a": lambda: 1.0, "b": lambda: 2.0}, 1).ratio is None


def test_no_rounds_are_refused() -> None:
    with pytest.raises(InputError, match="rounds is 0"):
        take_turns("decode", 1, "tok/s", {"a": lambda: 1.0}, 0)


def test_each_kind_of_work_has_a_speed_in_each_engine(q8_gguf: Path) -> None:
    with Model.load(q8_gguf) as numba, Model.load(q8_gguf, "reference") as reference:
        models = {"numba": numba, "reference": reference}
        kinds = [
            measure_prefill(models, 3, 2),
            measure_decode(models, 2, 2),
            measure_batch(models, 3, 2, 2),
        ]
    assert [(found.what, found.size) for found in kinds] == [
        ("prefill", 3),
        ("decode", 2),
        ("batch", 3),
    ]
    for found in kinds:
        assert found.unit == "tok/s"
        assert set(found.samples) == set(models)
        assert all(len(samples) == 2 and min(samples) > 0 for samples in found.samples.values())


def test_loading_is_in_seconds(q8_gguf: Path) -> None:
    found = measure_load({"numba": q8_gguf, "reference": q8_gguf}, threads=1, rounds=1)
    assert (found.what, found.unit, found.ratio) == ("load", "s", None)
    assert all(0 < median < 60 for median in found.medians.values())


def test_a_token_reads_all_matrices_but_the_embedding(q8_gguf: Path) -> None:
    file = ModelFile(q8_gguf)
    sizes = {tensor.name: tensor.raw.nbytes for tensor in file.gguf.tensors.values()}
    matrices = [tensor for tensor in file.gguf.tensors.values() if min(tensor.raw.shape) > 6]
    wanted = sum(tensor.raw.nbytes for tensor in matrices) - sizes["token_embd.weight"]
    assert file.bytes_per_token == wanted
    file.close()
