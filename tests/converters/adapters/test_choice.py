"""Alphas and beginnings go to the low-rank adapters among several."""

from pathlib import Path

import pytest

from rwkv_edge.converters.adapters import Adapter, choose_adapters
from rwkv_edge.errors import InputError
from tests.converters.adapters.adapter_files import Save, lora_of, numbers


@pytest.fixture
def lora(base: Path, save: Save) -> Path:
    return save("lora.pth", lora_of(base, 4))


@pytest.fixture
def disha(save: Save) -> Path:
    return save("disha.pth", {"blocks.0.att.key.disha": numbers(0, 4, 128)})


def test_one_alpha_is_for_all_low_rank_adapters(lora: Path, disha: Path) -> None:
    wanted = [Adapter(lora, 8.0), Adapter(disha), Adapter(lora, 8.0)]
    assert choose_adapters([lora, disha, lora], [8.0]) == wanted


def test_several_alphas_are_for_one_each(lora: Path, disha: Path) -> None:
    wanted = [Adapter(disha), Adapter(lora, 8.0), Adapter(lora, 4.0)]
    assert choose_adapters([disha, lora, lora], [8.0, 4.0]) == wanted


def test_a_beginning_makes_a_pissa(lora: Path, tmp_path: Path) -> None:
    init = tmp_path / "init.pth"
    assert choose_adapters([lora], pissa_inits=[init]) == [Adapter(lora, None, init)]


def test_orphans_are_ignored_in_all(lora: Path, disha: Path) -> None:
    chosen = choose_adapters([lora, disha], [1.0], ignore_orphans=True)
    assert all(adapter.ignore_orphans for adapter in chosen)


def test_nothing_is_chosen_of_nothing() -> None:
    assert choose_adapters([]) == []


def test_numbers_that_do_not_add_up_are_said(lora: Path, disha: Path) -> None:
    with pytest.raises(InputError, match="--alpha is given 2 times, and there are 3 low-rank"):
        choose_adapters([lora, lora, disha, lora], [1.0, 2.0])
    with pytest.raises(InputError, match="--alpha is for a LoRA, and there is none"):
        choose_adapters([disha], [1.0])
    with pytest.raises(InputError, match="--pissa-init is for a LoRA, and there is none"):
        choose_adapters([], pissa_inits=[lora])
    with pytest.raises(InputError, match=r"merge both kinds at once from Python"):
        choose_adapters([lora, lora], [1.0], [lora])
    with pytest.raises(InputError, match="--ignore-orphans is for adapters"):
        choose_adapters([], ignore_orphans=True)
