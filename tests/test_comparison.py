"""Comparing engines: against plain numpy, and with engines that are wrong on purpose."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from rwkv_edge import InputError, Model, RwkvEdgeError
from rwkv_edge.comparison import compare
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic

N_VOCAB = 50
TOKENS = list(range(1, 31))


class TableModel:
    """Gives fixed logits after each token, whatever came before."""

    def __init__(self, name: str, logits: Any) -> None:
        self.path = Path("table.gguf")
        self.backend = types.SimpleNamespace(name=name)
        self.hyperparameters = types.SimpleNamespace(n_vocab=logits.shape[1])
        self.logits = logits.astype(np.float32)
        self.longest_chunk = 0

    def new_state(self) -> None:
        return None

    def check_tokens(self, tokens: Any) -> Any:
        return np.asarray(tokens, np.int32)

    def forward(self, tokens: Any, state: object, all_logits: bool = False) -> tuple[Any, None]:
        assert all_logits
        self.longest_chunk = max(self.longest_chunk, len(tokens))
        return self.logits[tokens], None


def table(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((N_VOCAB, N_VOCAB)) * 4


def compared(*models: TableModel, **options: Any) -> Any:
    return compare(cast(list[Model], models), TOKENS, **options)


def expected_kl(p: Any, q: Any) -> Any:
    p, q = (np.exp(z.astype(np.float64)) for z in (p, q))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    return (p * np.log(p / q)).sum(axis=1)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 30, 1000])
def test_figures_equal_those_of_plain_numpy_in_any_chunks(chunk_tokens: int) -> None:
    a, b = TableModel("a", table(1)), TableModel("b", table(1) + 0.1 * table(2))
    (found,) = compared(a, b, chunk_tokens=chunk_tokens)
    p, q = a.logits[TOKENS].astype(np.float64), b.logits[TOKENS].astype(np.float64)
    difference = np.abs(p - q).max(axis=1)
    kl = expected_kl(p, q)
    other = np.flatnonzero(p.argmax(axis=1) != q.argmax(axis=1))
    assert (found.baseline, found.other, found.n_tokens) == ("a", "b", len(TOKENS))
    assert found.max_difference == difference.max()
    spread = p.max(axis=1) - p.min(axis=1)
    assert found.relative_difference == pytest.approx((difference / spread).max(), rel=1e-12)
    assert found.mean_kl == pytest.approx(kl.mean(), rel=1e-9)
    assert found.max_kl == pytest.approx(kl.max(), rel=1e-9)
    assert found.n_other_choices == len(other) > 0
    assert found.first_other_choice == other[0]
    assert a.longest_chunk <= chunk_tokens


def test_equal_logits_agree_completely() -> None:
    (found,) = compared(TableModel("a", table(1)), TableModel("b", table(1)))
    assert found.max_difference == found.max_kl == found.mean_kl == 0
    assert found.first_other_choice is None
    assert found.n_other_choices == 0


def test_a_constant_shift_of_logits_is_a_difference_but_no_divergence() -> None:
    (found,) = compared(TableModel("a", table(1)), TableModel("b", table(1) + 3))
    assert found.max_difference == pytest.approx(3, rel=1e-6)
    assert found.max_kl < 1e-12
    assert found.first_other_choice is None


def test_every_other_engine_is_compared_with_the_first() -> None:
    models = [TableModel(name, table(seed)) for name, seed in (("a", 1), ("b", 1), ("c", 3))]
    same, other = compared(*models)
    assert (same.baseline, same.other) == ("a", "b")
    assert (other.baseline, other.other) == ("a", "c")
    assert same.max_difference == 0 < other.max_difference


def test_extreme_logits_give_a_finite_divergence() -> None:
    a, b = table(1), table(1)
    a[:, 0], b[:, 0] = 3e4, -3e4
    (found,) = compared(TableModel("a", a), TableModel("b", b))
    assert np.isfinite(found.max_kl)
    assert found.max_kl > 1e4


def test_logits_that_all_are_equal_have_no_spread_to_divide_by() -> None:
    flat = np.zeros((N_VOCAB, N_VOCAB))
    (same,) = compared(TableModel("a", flat), TableModel("b", flat))
    (other,) = compared(TableModel("a", flat), TableModel("b", table(1)))
    assert same.relative_difference == 0
    assert other.relative_difference == 1


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_named_with_engine_and_position(broken: float) -> None:
    logits = table(1)
    logits[TOKENS[9], 5] = broken
    message = "table.gguf: b gives logits that are no numbers after token 9;"
    with pytest.raises(RwkvEdgeError, match=message):
        compared(TableModel("a", table(1)), TableModel("b", logits), chunk_tokens=4)


def test_one_engine_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="two engines"):
        compared(TableModel("a", table(1)))


def test_vocabularies_of_different_sizes_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="different sizes"):
        compared(TableModel("a", table(1)), TableModel("b", table(1)[:, :40]))


def test_progress_ends_at_the_number_of_tokens() -> None:
    seen: list[tuple[int, int]] = []
    models = TableModel("a", table(1)), TableModel("b", table(1))
    compared(*models, chunk_tokens=8, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(8, 30), (16, 30), (24, 30), (30, 30)]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    shape = synthetic_hyperparameters(2, 64, n_vocab=256, ranks=(32, 32, 32, 32))
    write_synthetic(folder / "tiny.pth", shape)
    convert(folder / "tiny.pth", folder / "tiny.gguf", "F32")
    return folder / "tiny.gguf"


@pytest.fixture
def engines(gguf: Path) -> Iterator[list[Model]]:
    with Model.load(gguf, "reference") as reference, Model.load(gguf, "numba") as numba:
        yield [reference, numba]


def test_numba_agrees_with_the_reference_on_a_float_file(engines: list[Model]) -> None:
    (found,) = compare(engines, list(b"The same text through both engines." * 4))
    # float32 sums in another order, over a few layers.
    assert found.relative_difference < 1e-4
    assert found.mean_kl < 1e-8


def test_no_tokens_are_refused(engines: list[Model]) -> None:
    with pytest.raises(InputError, match="no tokens"):
        compare(engines, [])
