"""Tuned states, alone or beside the weights, become the state that models begin with."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from gguf import GGUFReader

from rwkv_edge import Model
from rwkv_edge.converters.adapters import Adapter, TunedState
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.errors import FormatError, RwkvEdgeError
from rwkv_edge.tuned_state import TUNED_STATE_KEY
from tests.converters.adapters.adapter_files import lora_of, write_pth
from tests.runtime.arch.oracle import (
    TOLERANCE,
    difference,
    official_logits,
    require_official_package,
)

Arrays = dict[str, npt.NDArray[Any]]
TOKENS = np.random.default_rng(3).integers(0, 256, 20).astype(np.int32)
# Versions whose canonical state has rows of one key, and those with rows of one value.
ROWS_ARE_KEYS = ("5.0", "5.1", "5.2", "6")
ROWS_ARE_VALUES = ("7", "7a")
N_LAYER, N_HEAD, HEAD_SIZE = 2, 4, 32


def write_base(folder: Path, version: str) -> Path:
    hp = synthetic_hyperparameters(N_LAYER, 128, version=version, n_vocab=256, head_size=HEAD_SIZE)
    write_synthetic(folder / f"v{version}.pth", hp, dtype="float32")
    return folder / f"v{version}.pth"


def tuned() -> Arrays:
    """As RWKV-PEFT saves them: (head, value, key)."""
    random = np.random.default_rng(1)
    return {
        f"blocks.{i}.att.time_state": random.normal(0, 0.5, (N_HEAD, HEAD_SIZE, HEAD_SIZE)).astype(
            np.float32
        )
        for i in range(N_LAYER)
    }


def beside(base: Path, states: Arrays) -> Path:
    """The checkpoint with the states among its weights, as merge_state.py writes it."""
    with open_checkpoint(base) as checkpoint:
        weights: Arrays = {name: checkpoint.read(name) for name in checkpoint.names()}
    return write_pth(base.with_name("beside.pth"), {**weights, **states})


def begins_with(path: Path) -> npt.NDArray[np.float32]:
    with Model.load(path, "reference") as model:
        return model.new_state().to_arrays()["wkv"]


def canonical(version: str) -> npt.NDArray[np.float32]:
    stacked = np.stack(list(tuned().values()))
    return stacked.swapaxes(-1, -2) if version in ROWS_ARE_KEYS else stacked


@pytest.mark.parametrize("version", [*ROWS_ARE_KEYS, *ROWS_ARE_VALUES])
def test_a_state_file_and_states_beside_the_weights_mean_the_same(
    tmp_path: Path, version: str
) -> None:
    base = write_base(tmp_path, version)
    alone = write_pth(tmp_path / "state.pth", tuned())
    named = write_pth(tmp_path / "named.pth", {f"model.{n}": a for n, a in tuned().items()})
    for source, adapters in (
        (base, [TunedState(alone)]),
        (base, [TunedState(named)]),
        (base, [Adapter(alone)]),
        (beside(base, tuned()), []),
    ):
        convert(source, tmp_path / "m.gguf", adapters=adapters)
        assert np.array_equal(begins_with(tmp_path / "m.gguf"), canonical(version))


@pytest.mark.parametrize("version", ROWS_ARE_KEYS)
def test_logits_are_those_of_the_official_package_with_the_states_beside_the_weights(
    tmp_path: Path, version: str
) -> None:
    """The package begins with them by itself in these versions."""
    require_official_package()
    source = beside(write_base(tmp_path, version), tuned())
    wanted = official_logits(version, source, TOKENS)
    convert(source, tmp_path / "m.gguf", "F32")
    with Model.load(tmp_path / "m.gguf", threads=2) as model:
        found, _ = model.forward(TOKENS, all_logits=True)
    assert difference(found, wanted) < TOLERANCE


@pytest.mark.parametrize("version", ["6", *ROWS_ARE_VALUES])
def test_logits_are_those_of_the_official_package_begun_with_the_same_list(
    tmp_path: Path, version: str
) -> None:
    require_official_package()
    base = write_base(tmp_path, version)
    wanted = official_logits(version, base, TOKENS, canonical(version))
    state = write_pth(tmp_path / "state.pth", tuned())
    convert(base, tmp_path / "m.gguf", "F32", adapters=[TunedState(state)])
    for backend in ("numba", "reference"):
        with Model.load(tmp_path / "m.gguf", backend) as model:
            found, _ = model.forward(TOKENS, all_logits=True)
        assert difference(found, wanted) < TOLERANCE
    # Zeros would give something else.
    assert difference(official_logits(version, base, TOKENS), wanted) > 100 * TOLERANCE


@pytest.mark.parametrize("version", ["6", "7"])
def test_web_rwkv_s_state_files_have_rows_and_columns_exchanged(
    tmp_path: Path, version: str
) -> None:
    base = write_base(tmp_path, version)
    exchanged = {
        name: np.ascontiguousarray(array.swapaxes(-1, -2)).astype(np.float16)
        for name, array in tuned().items()
    }
    safetensors.numpy.save_file(exchanged, tmp_path / "state.st")
    summary = convert(base, tmp_path / "m.gguf", adapters=[TunedState(tmp_path / "state.st")])
    halves = canonical(version).astype(np.float16).astype(np.float32)
    assert np.array_equal(begins_with(summary.path), halves)
    assert summary.notes[0].startswith(f"{tmp_path / 'state.st'}: read as web-rwkv writes states")


def test_a_state_file_takes_the_place_of_states_beside_the_weights(tmp_path: Path) -> None:
    base = write_base(tmp_path, "7")
    zeros = {name: np.zeros_like(array) for name, array in tuned().items()}
    state = write_pth(tmp_path / "state.pth", tuned())
    convert(beside(base, zeros), tmp_path / "m.gguf", adapters=[TunedState(state)])
    assert np.array_equal(begins_with(tmp_path / "m.gguf"), canonical("7"))


def test_a_state_goes_together_with_an_adapter(tmp_path: Path) -> None:
    base = write_base(tmp_path, "7")
    pairs = lora_of(base, 4)
    lora = Adapter(write_pth(tmp_path / "lora.pth", pairs), 8)
    state = TunedState(write_pth(tmp_path / "state.pth", tuned()))
    both = Adapter(write_pth(tmp_path / "both.pth", {**pairs, **tuned()}), 8)
    files = []
    for name, adapters in (("lora", [lora]), ("two", [lora, state]), ("one", [both])):
        convert(base, tmp_path / f"{name}.gguf", "F16", adapters=adapters)
        files.append((tmp_path / f"{name}.gguf").read_bytes())
    assert np.array_equal(begins_with(tmp_path / "two.gguf"), canonical("7"))
    # The same weights behind the header, and a header that says the same.
    assert files[0][-500_000:] == files[1][-500_000:]
    assert files[1] == files[2].replace(b"one", b"two")


def test_the_file_holds_it_as_a_key_that_gguf_py_reads(tmp_path: Path) -> None:
    base = write_base(tmp_path, "7")
    state = write_pth(tmp_path / "state.pth", tuned())
    convert(base, tmp_path / "m.gguf", adapters=[TunedState(state)])
    reader = GGUFReader(tmp_path / "m.gguf")
    field = reader.get_field(TUNED_STATE_KEY)
    assert field is not None
    for i, text in enumerate(field.contents()):
        numbers = np.frombuffer(base64.b64decode(text), "<f4")
        assert np.array_equal(numbers, canonical("7")[i].ravel())
    convert(base, tmp_path / "plain.gguf")
    plain = GGUFReader(tmp_path / "plain.gguf")
    assert [t.name for t in reader.tensors] == [t.name for t in plain.tensors]
    assert plain.get_field(TUNED_STATE_KEY) is None


def refused(
    source: Path,
    message: str,
    adapters: list[Adapter | TunedState],
    error: type[RwkvEdgeError] = FormatError,
) -> None:
    with pytest.raises(error, match=message) as caught:
        convert(source, source.with_name("m.gguf"), adapters=adapters)
    assert str(caught.value).isprintable()
    assert not source.with_name("m.gguf").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.att.time_state"), r"blocks\.1\.att\.time_state is missing"),
        (
            lambda s: s.update({"blocks.2.att.time_state": np.zeros((4, 32, 32), np.float32)}),
            r"blocks\.2\.att\.time_state is too many; the model has 2 layers",
        ),
        (
            lambda s: s.update({"blocks.1.att.time_state": np.zeros((2, 64, 64), np.float32)}),
            r"is \[2, 64, 64\]; wanted \[4, 32, 32\]; was it trained on another model",
        ),
        (
            lambda s: s.update({"blocks.1.att.time_state": np.zeros((128, 32), np.float32)}),
            r"is \[128, 32\]; wanted \[4, 32, 32\]",
        ),
        (
            lambda s: s.update({"blocks.0.att.time_state": np.full((4, 32, 32), np.nan, "f4")}),
            r"blocks\.0\.att\.time_state: holds NaN or infinity",
        ),
    ],
)
def test_states_that_do_not_fit_are_named_alone_and_beside_the_weights(
    tmp_path: Path, change: Callable[[Arrays], object], message: str
) -> None:
    base, states = write_base(tmp_path, "7"), tuned()
    change(states)
    alone = write_pth(tmp_path / "state.pth", states)
    refused(base, f"{alone}: .*{message}", [TunedState(alone)])
    source = beside(base, states)
    refused(source, f"{source}: .*{message}", [])


def test_rwkv4_has_no_state_to_tune(tmp_path: Path) -> None:
    hp = synthetic_hyperparameters(2, 128, version="4", n_vocab=256)
    write_synthetic(tmp_path / "v4.pth", hp, dtype="float32")
    state = write_pth(tmp_path / "state.pth", tuned())
    message = "the model is RWKV-4, whose state has no matrices to tune"
    refused(tmp_path / "v4.pth", f"{state}: .*{message}", [TunedState(state)])
    source = beside(tmp_path / "v4.pth", tuned())
    refused(source, f"{source}: .*{message}", [])


def test_a_state_file_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path, "7")
    mixed = write_pth(tmp_path / "a.pth", {**tuned(), **lora_of(base, 4)})
    refused(base, "which is no tuned state; give an adapter with --adapter", [TunedState(mixed)])
    refused(base, r"holds emb\.weight and .* more, which is no tuned state", [TunedState(base)])
