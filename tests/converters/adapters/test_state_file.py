"""Tuned states for a model that is loaded already."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from rwkv_edge import Model
from rwkv_edge.converters.adapters import TunedState, load_tuned_state
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError, StateMismatchError
from tests.converters.adapters.adapter_files import Save, lora_of, numbers

TOKENS = list(b"a prompt of some length")


@pytest.mark.parametrize("version", ["5.2", "6", "7"])
@pytest.mark.parametrize("container", ["pth", "st"])
def test_it_gives_what_converting_with_it_gives(
    tmp_path: Path, save: Save, version: str, container: str
) -> None:
    hp = synthetic_hyperparameters(2, 128, version=version, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    layers = {f"blocks.{i}.att.time_state": numbers(i, 2, 64, 64) for i in range(2)}
    file = save("state.pth", layers)
    if container == "st":
        file = tmp_path / "state.st"
        safetensors.numpy.save_file(layers, file)
    convert(tmp_path / "m.pth", tmp_path / "plain.gguf")
    convert(tmp_path / "m.pth", tmp_path / "tuned.gguf", adapters=[TunedState(file)])
    with (
        Model.load(tmp_path / "plain.gguf") as plain,
        Model.load(tmp_path / "tuned.gguf") as tuned,
    ):
        wanted = tuned.forward(TOKENS)[0]
        assert np.array_equal(plain.forward(TOKENS, load_tuned_state(file, plain))[0], wanted)
        assert not np.array_equal(plain.forward(TOKENS)[0], wanted)
        state = load_tuned_state(file, plain)
        plain.begin_with(state)
        # The state goes on by itself.
        plain.forward(TOKENS, state)
        assert plain.info.tuned_state
        for _ in range(2):
            assert np.array_equal(plain.forward(TOKENS)[0], wanted)
        before = tuned.new_state().to_arrays()
        tuned.begin_with(None)
        assert not tuned.info.tuned_state
        assert not tuned.new_state().to_arrays()["wkv"].any()
        with pytest.raises(StateMismatchError):
            tuned.begin_with(plain.new_state())
        assert before["wkv"].any()


def test_what_is_no_state_of_the_model_is_refused(base: Path, save: Save, tmp_path: Path) -> None:
    convert(base, tmp_path / "m.gguf")
    with Model.load(tmp_path / "m.gguf", "reference") as model:
        model.new_state().save(tmp_path / "own.state")
        for path, message in (
            (save("lora.pth", lora_of(base, 4)), "which is no tuned state"),
            (save("few.pth", {"blocks.0.att.time_state": numbers(0, 2, 64, 64)}), "are missing"),
            (tmp_path / "own.state", "holds att_x and 2 more, which is no tuned state"),
            (tmp_path / "nowhere.pth", "no such file"),
        ):
            with pytest.raises(FormatError, match=message) as caught:
                load_tuned_state(path, model)
            assert str(caught.value).startswith(f"{path}: ")
