"""Names of an adapter's tensors, and files that are handed over in the wrong place."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.converters.adapters.keys import Part, read_key
from rwkv_edge.converters.convert import convert
from rwkv_edge.errors import FormatError
from tests.converters.adapters.adapter_files import Save, lora_of, numbers


@pytest.mark.parametrize(
    ("name", "target", "part"),
    [
        ("blocks.0.att.key.lora_A", "blocks.0.att.key.weight", Part.LORA_A),
        ("model.blocks.0.att.key.lora_B", "blocks.0.att.key.weight", Part.LORA_B),
        ("blocks.11.ffn.value.init_lora_A", "blocks.11.ffn.value.weight", Part.INIT_A),
        ("model.head.init_lora_B", "head.weight", Part.INIT_B),
        ("base_model.model.blocks.0.att.key.lora_A.weight", "blocks.0.att.key.weight", Part.LORA_A),
        ("blocks.0.att.key.disha", "blocks.0.att.key.weight", Part.DISHA),
        ("blocks.0.att.key.bone", "blocks.0.att.key.weight", Part.BONE),
        ("blocks.0.att.time_state", "blocks.0.att.time_state", Part.STATE),
        ("blocks.0.att.key.weight", "blocks.0.att.key.weight", Part.WHOLE),
        ("blocks.0.att.x_r", "blocks.0.att.x_r", Part.WHOLE),
        ("emb.weight", "emb.weight", Part.WHOLE),
        ("lora_A", "lora_A", Part.WHOLE),
        ("blocks.0.att.key.lora_a", "blocks.0.att.key.lora_a", Part.WHOLE),
    ],
)
def test_a_name_says_what_it_changes(name: str, target: str, part: Part) -> None:
    assert (read_key(name).target, read_key(name).part) == (target, part)


@pytest.mark.parametrize(("name", "layer"), [("blocks.12.att.x_r", 12), ("emb.weight", None)])
def test_a_name_says_its_layer(name: str, layer: int | None) -> None:
    assert read_key(name).layer == layer


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda base: lora_of(base, 4), r"and 35 more: a LoRA or PiSSA.*--lora FILE --alpha N"),
        (lambda base: lora_of(base, 4, prefix="init_"), r"beginning of a PiSSA.*--pissa-init"),
        (
            lambda base: {"blocks.0.att.key.disha": numbers(0, 4, 128)},
            r"holds blocks\.0\.att\.key\.disha: a DiSHA.*--adapter FILE",
        ),
        (
            lambda base: {"blocks.0.att.time_state": np.zeros((2, 64, 64), np.float32)},
            r"a tuned state alone.*--state FILE",
        ),
    ],
)
def test_an_adapter_to_convert_alone_is_refused_with_the_way_to_merge_it(
    base: Path,
    save: Save,
    tmp_path: Path,
    tensors: Callable[[Path], dict[str, np.ndarray]],
    message: str,
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        convert(save("a.pth", tensors(base)), tmp_path / "m.gguf")
    assert str(caught.value).startswith(f"{tmp_path / 'a.pth'}: holds ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.gguf").exists()
