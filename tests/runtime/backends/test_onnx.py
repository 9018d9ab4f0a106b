"""onnxruntime against numba on the same codes, its memory, and what goes wrong with it."""

import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_edge import (
    BackendUnavailableError,
    FormatError,
    InputError,
    Model,
    RwkvEdgeError,
)
from rwkv_edge.apps.fresh_process import resident_bytes
from rwkv_edge.comparison import kl_divergence
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import (
    SYNTHETIC_VERSIONS,
    synthetic_hyperparameters,
    write_synthetic,
)
from rwkv_edge.runtime.backends.onnx import BLOCK_TOKENS, OnnxBackend, providers_for
from tests.exported import file_for

onnxruntime = pytest.importorskip("onnxruntime")

Logits = npt.NDArray[np.float32]
TOKENS = np.random.default_rng(0).integers(0, 256, 200).astype(np.int32)
ALL = ["CUDAExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture(scope="module")
def f32_onnx(f32_gguf: Path) -> Path:
    return file_for("onnx", f32_gguf)


@pytest.fixture
def model(f32_onnx: Path) -> Iterator[Model]:
    # One thread: two would wait for each other at every node, for long where others work, too.
    with Model.load(f32_onnx, threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
@pytest.mark.parametrize("version", SYNTHETIC_VERSIONS)
def test_quantized_models_agree_with_numba_on_the_same_codes(
    tmp_path: Path, version: str, weight_type: str
) -> None:
    write_synthetic(
        tmp_path / "m.pth", synthetic_hyperparameters(3, 128, version=version, n_vocab=256), seed=3
    )
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
    with Model.load(tmp_path / "m.gguf", "numba", threads=1) as numba:
        wanted, _ = numba.forward(TOKENS, all_logits=True)
    with Model.load(file_for("onnx", tmp_path / "m.gguf"), threads=1) as model:
        assert model.info.file_type == weight_type
        at_once, _ = model.forward(TOKENS, all_logits=True)
        state = model.new_state()
        in_turn = np.stack([model.forward([token], state)[0] for token in TOKENS])
    for found in (at_once, in_turn):
        divergences = [
            kl_divergence(p.astype(np.float64), q.astype(np.float64))
            for p, q in zip(wanted, found, strict=True)
        ]
        # Both engines round activations to 8 bits, one scale for 32, but add the products in
        # another order, after which some round the other way: here 2e-4 at most on average, and
        # 8e-4 after the worst token.
        assert np.mean(divergences) < 1e-3
        assert max(divergences) < 5e-3


@pytest.mark.parametrize("all_logits", [False, True])
@pytest.mark.parametrize("n_blocks", [1, 2, 3, 4])
def test_any_number_of_blocks_gives_what_single_tokens_give(
    model: Model, n_blocks: int, all_logits: bool
) -> None:
    tokens = np.resize(TOKENS, (n_blocks - 1) * BLOCK_TOKENS + 5)
    _, state = model.forward(TOKENS[:7])
    slow = state.clone()
    # Single tokens first and last, so that the bindings that are kept see what blocks left.
    model.forward(TOKENS[:1], state)
    logits, _ = model.forward(tokens, state, all_logits)
    last, _ = model.forward(TOKENS[1:2], state)
    model.forward(TOKENS[:1], slow)
    rows = np.stack([model.forward([token], slow)[0] for token in tokens])
    wanted_last, _ = model.forward(TOKENS[1:2], slow)
    # float32 sums in another order; relative to the spread of the logits.
    wanted = rows if all_logits else rows[-1]
    assert logits.shape == wanted.shape
    assert np.abs(logits - wanted).max() < 1e-4 * np.ptp(rows)
    assert np.abs(last - wanted_last).max() < 1e-4 * np.ptp(rows)


def test_two_threads_give_what_one_gives(model: Model, f32_onnx: Path) -> None:
    wanted, _ = model.forward(TOKENS[:20], all_logits=True)
    with Model.load(f32_onnx, threads=2) as other:
        found, _ = other.forward(TOKENS[:20], all_logits=True)
    # float32 sums in another order; relative to the spread of the logits.
    assert np.abs(found - wanted).max() < 1e-4 * np.ptp(wanted)


def test_logits_are_not_written_again_by_the_next_call(model: Model) -> None:
    first, state = model.forward([1])
    kept = first.copy()
    model.forward([2], state)
    model.forward([3], state)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("n_tokens", [1, 3 * BLOCK_TOKENS])
def test_a_call_that_fails_leaves_the_state_as_it_was(
    model: Model, monkeypatch: pytest.MonkeyPatch, n_tokens: int
) -> None:
    _, state = model.forward(TOKENS[:9])
    before = state.to_arrays()
    backend = model.backend
    assert isinstance(backend, OnnxBackend)
    run, calls = backend._session.run_with_iobinding, []

    def fail_in_the_end(binding: object) -> None:
        run(binding)
        calls.append(binding)
        if len(calls) * BLOCK_TOKENS >= n_tokens:
            raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("no\nmore  paper")

    monkeypatch.setattr(backend._session, "run_with_iobinding", fail_in_the_end)
    with pytest.raises(RwkvEdgeError, match=r"tiny-f32\.onnx: onnxruntime failed: no more paper$"):
        model.forward(np.resize(TOKENS, n_tokens), state)
    monkeypatch.undo()
    for name, array in before.items():
        assert np.array_equal(state.to_arrays()[name], array), name
    found, _ = model.forward(TOKENS[9:12], state)
    wanted, _ = model.forward(TOKENS[:12])
    # Blocks of other lengths add in another order; relative to the spread of the logits.
    assert np.abs(found - wanted).max() < 1e-4 * np.ptp(wanted)


def test_threads_with_states_of_their_own_get_what_each_gets_alone(model: Model) -> None:
    parts = [np.roll(TOKENS, 11 * i) for i in range(4)]
    wanted = [model.forward(part)[0] for part in parts]
    found: dict[int, Logits] = {}

    def read(i: int) -> None:
        state = model.new_state()
        for token in parts[i][:50]:
            model.forward([token], state)
        found[i] = model.forward(parts[i][50:], state)[0]

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, logits in enumerate(wanted):
        assert np.abs(found[i] - logits).max() < 1e-4 * np.ptp(logits)


def grown(work: Callable[[], object]) -> int:
    """Bytes that this process has more of, resident, after the work."""
    gc.collect()
    before = resident_bytes().steady
    if before is None:
        pytest.skip("this system does not say how much memory a process has")
    work()
    gc.collect()
    after = resident_bytes().steady
    assert after is not None
    return after - before


def test_memory_does_not_grow_with_tokens(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "m.pth", synthetic_hyperparameters(1, 64, n_vocab=256))
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    with Model.load(file_for("onnx", tmp_path / "m.gguf"), threads=1) as model:
        state = model.new_state()

        def decode(n_tokens: int) -> None:
            for i in range(n_tokens):
                model.forward(TOKENS[i % 200 : i % 200 + 1], state)

        decode(500)
        # A few pages: Python's own lists and caches; one number kept a token would be 160 kB.
        assert grown(lambda: decode(20_000)) < 100_000


def test_memory_does_not_grow_with_prompts_of_other_lengths(model: Model) -> None:
    random = np.random.default_rng(1)

    def read(lengths: npt.NDArray[np.int64]) -> None:
        for length in lengths:
            model.forward(random.integers(0, 256, length))

    # onnxruntime's pool of memory grows to what the largest blocks need, and no further.
    read(np.array([3 * BLOCK_TOKENS, BLOCK_TOKENS, *random.integers(1, BLOCK_TOKENS, 20)]))
    assert grown(lambda: read(random.permutation(np.arange(3, 353, 7)))) < 1 << 20


def test_states_that_were_dropped_leave_no_memory(model: Model) -> None:
    def drop(n_states: int) -> None:
        for _ in range(n_states):
            model.forward([1])

    drop(50)
    # A state, the room beside it and its bindings: 250 kB.
    assert grown(lambda: drop(300)) < 1 << 20


def test_a_state_of_the_wrong_shape_is_refused_by_the_graph_itself(f32_onnx: Path) -> None:
    session = onnxruntime.InferenceSession(str(f32_onnx), providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {
        value.name: np.zeros(value.shape, np.float32)
        for value in session.get_inputs()
        if value.name != "tokens"
    }
    feed["tokens"] = np.array([1, 2, 3])
    assert session.run(["logits"], feed)[0].shape[-1] == 256
    for name in ("wkv", "att_x"):
        for wrong in (feed[name][1:], feed[name][..., 1:]):
            with pytest.raises(Exception, match=f"invalid dimensions for input: {name}"):
                session.run(["logits"], {**feed, name: wrong})


def test_providers_are_found_by_either_name_and_the_cpu_does_the_rest() -> None:
    cuda = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers_for(None, ALL) == providers_for("cpu", ALL) == ["CPUExecutionProvider"]
    for name in ("cuda", "CUDA", "CUDAExecutionProvider", "cudaexecutionprovider"):
        assert providers_for(name, ALL) == cuda
    assert providers_for("dml", ALL) == ["DmlExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(BackendUnavailableError, match="no provider 'abacus'; it has cuda, dml, cp"):
        providers_for("abacus", ALL)


def test_a_provider_that_is_not_in_this_build_is_one_line(f32_onnx: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"no provider 'abacus'; it has .*cpu"):
        Model.load(f32_onnx, "onnx:abacus")


def test_a_provider_that_does_not_start_is_one_line(
    f32_onnx: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA may start here")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    with pytest.raises(BackendUnavailableError, match="could not start its CUDAExecutionProvider"):
        Model.load(f32_onnx, "onnx:cuda")
    del recwarn


def test_another_provider_gives_the_same(f32_onnx: Path, model: Model) -> None:
    others = set(onnxruntime.get_available_providers()) - {"CPUExecutionProvider"}
    if not others:
        pytest.skip("this onnxruntime has the CPU alone")
    wanted, _ = model.forward(TOKENS, all_logits=True)
    for name in sorted(others):
        try:
            other = Model.load(f32_onnx, f"onnx:{name}", threads=1)
        except BackendUnavailableError:
            continue  # its drivers are not here
        with other:
            short = name.removesuffix("ExecutionProvider").lower()
            assert other.backend.name == other.info.backend == f"onnx:{short}"
            state = other.new_state()
            rows = [other.forward(TOKENS[:1], state)[0], other.forward(TOKENS[1:2], state)[0]]
            rest, _ = other.forward(TOKENS[2:], state, all_logits=True)
        found = np.concatenate([np.stack(rows), rest])
        # Another device adds in another order; relative to the spread of the logits.
        assert np.abs(found - wanted).max() < 1e-3 * np.ptp(wanted), name


def test_without_onnxruntime_the_remedy_is_said(
    f32_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "rwkv-edge\[onnx\]"'):
        Model.load(f32_onnx)


@pytest.mark.parametrize("name", ["onnx:", "onnyx", "numba:cuda", ":cuda"])
def test_names_that_mean_no_engine_are_refused(f32_onnx: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"backend '{name}' does not exist; there are numba, ref"):
        Model.load(f32_onnx, name)


@pytest.mark.parametrize("engine", ["numba", "reference", "llama"])
def test_an_onnx_in_another_engine_is_one_line(f32_onnx: Path, engine: str) -> None:
    with pytest.raises(InputError, match=f"{f32_onnx}: the {engine} backend runs GGUF files"):
        Model.load(f32_onnx, engine)


def test_a_gguf_in_this_engine_is_one_line_with_the_command(f32_gguf: Path) -> None:
    with pytest.raises(InputError, match=f"rwkv-edge convert {f32_gguf} --onnx$"):
        Model.load(f32_gguf, "onnx")


def test_a_file_that_onnxruntime_cannot_load_is_one_line_and_nothing_on_stderr(
    model: Model, f32_onnx: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        onnxruntime_session(str(f32_onnx.parent / "none.onnx"), onnxruntime.SessionOptions())

    onnxruntime_session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(FormatError, match=r"could not load it .*NO_SUCHFILE.*; export it again"):
        Model.load(f32_onnx)
    with pytest.raises(RwkvEdgeError, match=r"onnxruntime failed: .*out of data bounds"):
        model.backend.forward(np.array([999], np.int32), model.backend.new_state(), False)
    assert capfd.readouterr().err == ""


def test_a_closed_model_gives_its_memory_back_though_states_are_left(f32_onnx: Path) -> None:
    model = Model.load(f32_onnx, threads=1)
    _, state = model.forward([1])
    model.forward([2], state)
    assert isinstance(model.backend, OnnxBackend)
    # What holds the weights; a binding would keep it.
    session = model.backend._session._sess
    n_held = sys.getrefcount(session)
    model.close()
    gc.collect()
    # What is left: this name and the call's own argument.
    assert sys.getrefcount(session) == 2 < n_held
    assert state.handle is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_model_works_on_in_a_forked_process(model: Model) -> None:
    wanted, _ = model.forward(TOKENS)
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(
        target=lambda: queue.put(model.forward(TOKENS)[0])
    )
    child.start()
    found = queue.get(timeout=60)
    child.join(60)
    assert np.abs(found - wanted).max() < 1e-4 * np.ptp(wanted)
