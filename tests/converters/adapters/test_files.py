"""Adapters that fit no base, or came with the wrong options: refused, by name, before writing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.converters.adapters import Adapter, TunedState
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError, InputError, RwkvEdgeError
from tests.converters.adapters.adapter_files import Arrays, Save, lora_of, numbers

KEY = "blocks.0.att.key"


def refused(
    base: Path,
    adapters: list[Adapter | TunedState],
    match: str,
    error: type[RwkvEdgeError] = FormatError,
) -> str:
    """Conversion fails in one printable line, and leaves nothing."""
    before = sorted(base.parent.iterdir())
    with pytest.raises(error, match=match) as caught:
        convert(base, base.with_name("m.gguf"), adapters=adapters)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    assert sorted(base.parent.iterdir()) == before
    return message


def without(name: str) -> Callable[[Arrays], object]:
    return lambda pairs: pairs.pop(name)


def put(name: str, array: np.ndarray[Any, Any]) -> Callable[[Arrays], object]:
    return lambda pairs: pairs.update({name: array})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(f"{KEY}.lora_B"), f"{KEY}.lora_A: without its lora_B"),
        (without(f"{KEY}.lora_A"), f"{KEY}.lora_B: without its lora_A"),
        (
            put("blocks.1.att.nothing.lora_A", numbers(0, 4, 4)),
            r"nothing\.lora_A: the base has no such tensor",
        ),
        (put("blocks.1.att.nothing", numbers(0, 4)), r"att\.nothing: the base has no such tensor"),
        (put("optimizer", numbers(0, 4)), "optimizer: the base has no such tensor"),
        (
            put(f"{KEY}.lora_A", numbers(0, 4, 64)),
            r"lora_A and lora_B \[4, 64\] and \[128, 4\] for \[128, 128\]",
        ),
        (put(f"{KEY}.lora_A", numbers(0, 5, 128)), r"\[5, 128\] and \[128, 4\]"),
        (
            put(f"{KEY}.lora_B", numbers(0, 4, 128)),
            r"wanted \[rank, in\] and \[out, rank\] for \[out, in\]",
        ),
        (put(f"{KEY}.lora_B", numbers(0, 128)), r"\[4, 128\] and \[128\]"),
        (put(f"{KEY}.lora_A", numbers(0, 0, 128)), r"\[0, 128\] and"),
        (put("emb.weight", numbers(0, 128, 256)), r"emb.weight \[128, 256\] for \[256, 128\]"),
        (put("emb.weight", numbers(0, 1, 256, 128)), r"emb.weight \[1, 256, 128\] for"),
        (
            put("blocks.0.ln1.weight", numbers(0, 64)),
            r"ln1.weight \[64\] for \[128\]: another shape",
        ),
        (put("blocks.0.ln1.lora_A", numbers(0, 4, 128)), r"ln1.lora_A: without its lora_B"),
        (
            put("blocks.0.att.time_state", numbers(0, 2, 64, 32)),
            r"blocks.1.att.time_state, blocks.2.att.time_state are missing",
        ),
    ],
)
def test_what_fits_nowhere_is_named(
    base: Path, save: Save, change: Callable[[Arrays], object], message: str
) -> None:
    pairs = lora_of(base, 4)
    change(pairs)
    path = save("a.pth", pairs)
    assert refused(base, [Adapter(path, 8)], message).startswith(f"{path}: ")


def test_everything_that_fits_nowhere_is_listed_in_one_message(base: Path, save: Save) -> None:
    pairs = lora_of(base, 4)
    del pairs[f"{KEY}.lora_B"]
    pairs["blocks.2.ffn.value.lora_A"] = numbers(0, 4, 5)
    pairs |= {f"blocks.0.extra{i}": numbers(0, 1) for i in range(2)}
    pairs |= {f"blocks.{i}.ln1.weight": numbers(0, 128) for i in range(3, 20)}
    message = refused(base, [Adapter(save("a.pth", pairs), 8)], "does not fit")
    for part in (
        f"a.pth: does not fit {base}: ",
        f"{KEY}.lora_A: without its lora_B",
        "blocks.0.extra0, blocks.0.extra1: the base has no such tensor",
        "blocks.2.ffn.value.lora_A and lora_B [4, 5] and [128, 4] for [128, 320]",
        "blocks.3.ln1.weight, blocks.4.ln1.weight",
        "blocks.8.ln1.weight and 11 more: the base has only 3 layers",
    ):
        assert part in message


def test_layers_that_the_base_has_not_can_be_left_out(base: Path, save: Save) -> None:
    pairs = lora_of(base, 4)
    orphans = {f"blocks.{i}.ln{j}.weight": numbers(0, 128) for i in (3, 4) for j in (1, 2)}
    orphans |= {"blocks.3.att.key.lora_A": numbers(0, 4, 128), "blocks.3.ffn.odd": numbers(0, 1)}
    path, clean = save("a.pth", {**pairs, **orphans}), save("b.pth", pairs)
    message = refused(base, [Adapter(path, 8)], "the base has only 3 layers")
    assert "RWKV-PEFT saves such tensors where its n_layer was too large" in message
    assert "--ignore-orphans" in message
    ignoring = Adapter(path, 8, ignore_orphans=True)
    convert(base, base.with_name("a.gguf"), "F16", adapters=[ignoring])
    convert(base, base.with_name("b.gguf"), "F16", adapters=[Adapter(clean, 8)])
    found, wanted = (base.with_name(f"{name}.gguf").read_bytes() for name in "ab")
    # The headers differ in the digest of what was merged.
    assert found[-1_000_000:] == wanted[-1_000_000:]
    # A name that is wrong in a layer that is there stays an error.
    path = save("c.pth", {**pairs, "blocks.2.ffn.odd": numbers(0, 1)})
    refused(base, [Adapter(path, 8, ignore_orphans=True)], r"blocks\.2\.ffn\.odd")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 64), r"key.disha \[4, 64\] for \[128, 128\]: wanted \[r, out\] or"),
        ((128, 4), r"\[128, 4\]"),
        ((129, 128), r"\[129, 128\]"),
        ((0, 128), r"\[0, 128\]"),
        ((4, 32, 16), r"\[4, 32, 16\]"),
        ((3, 32, 32), r"\[3, 32, 32\]"),
        ((2, 48, 48), r"\[2, 48, 48\]"),
        ((4,), r"\[4\]"),
        ((1, 4, 32, 32), r"\[1, 4, 32, 32\]"),
    ],
)
def test_a_disha_of_another_shape_is_named(
    base: Path, save: Save, shape: tuple[int, ...], message: str
) -> None:
    refused(base, [Adapter(save("a.pth", {f"{KEY}.disha": numbers(0, *shape)}))], message)


def test_a_pissa_needs_a_beginning_for_each_pair_and_no_other(base: Path, save: Save) -> None:
    pairs, initial = lora_of(base, 4), lora_of(base, 4, prefix="init_")

    def refused_with(initial: Arrays, message: str, pairs: Arrays = pairs) -> None:
        init = save("init.pth", initial)
        refused(base, [Adapter(save("a.pth", pairs), pissa_init=init)], message)

    some = {name: array for name, array in initial.items() if KEY not in name}
    refused_with(some, f"{KEY}.lora_A: no beginning of it in init.pth")
    fewer = {name: array for name, array in pairs.items() if KEY not in name}
    refused_with(initial, f"init.pth: {KEY}.init_lora_A.*: no lora_A and lora_B for it", fewer)
    half = {name: array for name, array in initial.items() if name != f"{KEY}.init_lora_B"}
    refused_with(half, f"{KEY}.init_lora_A: without its init_lora_B")
    refused_with(lora_of(base, 5, prefix="init_"), "lora_A 4 for 5.*: another rank in init.pth")
    refused_with(pairs, r"init\.pth: .*wanted init_lora_A and init_lora_B alone")
    turned = {name: array.T for name, array in initial.items()}
    refused_with(turned, r"init_lora_A and init_lora_B \[128, 4\] and \[4, 128\]")


def test_options_that_fit_no_adapter_are_said(base: Path, save: Save) -> None:
    lora = save("lora.pth", lora_of(base, 4))
    init = save("init.pth", lora_of(base, 4, prefix="init_"))
    disha = save("disha.pth", {f"{KEY}.disha": numbers(0, 4, 128)})
    for adapter, wanted in (
        (Adapter(lora), "does not say the alpha that it was trained with; add --alpha N, or"),
        (Adapter(lora, 8, init), "leave one out"),
        (Adapter(lora, float("nan")), "alpha nan: wanted a number other than 0"),
        (Adapter(lora, float("inf")), "alpha inf"),
        (Adapter(lora, 0), "alpha 0"),
        (Adapter(lora, 1e30), r"alpha 1e\+30"),
        (Adapter(init, 8), "is the beginning of a PiSSA; name the adapter"),
        (Adapter(disha, 8), "holds no LoRA, so there is no use for --alpha"),
        (Adapter(disha, pissa_init=init), "no use for --pissa-init"),
    ):
        message = refused(base, [adapter], wanted, InputError)
        assert message.startswith(f"{adapter.path}: ")


def test_an_adapter_of_another_model_size_is_refused(
    base: Path, save: Save, tmp_path: Path
) -> None:
    hp = synthetic_hyperparameters(3, 192, n_ffn=320, n_vocab=256, ranks=(32, 64, 40, 96))
    write_synthetic(tmp_path / "other.pth", hp)
    path = save("a.pth", lora_of(tmp_path / "other.pth", 4))
    message = refused(base, [Adapter(path, 8)], "name the model that it was trained on")
    assert "receptance.lora_A and lora_B [4, 192] and [192, 4] for [128, 128]" in message


def test_a_whole_model_is_no_adapter(base: Path, tmp_path: Path) -> None:
    refused(base, [Adapter(base)], "is a whole model of the base's shape, not an adapter")
    write_synthetic(
        tmp_path / "v6.pth", synthetic_hyperparameters(3, 128, version="6", n_vocab=256)
    )
    refused(base, [Adapter(tmp_path / "v6.pth")], "does not fit.*the base has no such tensor")


def test_a_file_that_is_no_checkpoint_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"no zip")
    refused(base, [Adapter(tmp_path / "a.pth", 8)], "is neither a .pth nor a safetensors file")
    refused(base, [Adapter(tmp_path / "nowhere.pth", 8)], "nowhere.pth: no such file")
    refused(base, [TunedState(tmp_path)], "is a folder")


def test_whole_numbers_are_refused(base: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pairs = {name: torch.from_numpy(array) for name, array in lora_of(base, 4).items()}
    pairs[f"{KEY}.lora_A"] = torch.ones(4, 128, dtype=torch.int8)
    torch.save(pairs, tmp_path / "a.pth")
    refused(base, [Adapter(tmp_path / "a.pth", 8)], "lora_A holds int8 numbers; wanted float32")


def test_neither_base_nor_adapter_is_written_over(base: Path, save: Save) -> None:
    path = save("a.pth", lora_of(base, 4))
    before = path.read_bytes()
    with pytest.raises(InputError, match="is an adapter itself"):
        convert(base, path, adapters=[Adapter(path, 8)])
    assert path.read_bytes() == before
