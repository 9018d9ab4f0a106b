"""The public API around an engine: arguments, batches, threads, memory, the end."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import InputError, Model, RwkvEdgeError, StateMismatchError
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic

TEXT = (b"The recurrent state is advanced in place, once per token; nothing else grows. " * 3)[:200]
BACKENDS = ["numba", "reference", "llama"]


def load(path: Path, backend: str, threads: int = 1) -> Model:
    if backend == "llama":
        pytest.importorskip("llama_cpp")
    return Model.load(path, backend, threads=threads)


def tokens_of(seed: int, n_tokens: int) -> list[int]:
    numbers: list[int] = np.random.default_rng(seed).integers(0, 256, n_tokens).tolist()
    return numbers


def same_arrays(one: Any, two: Any) -> bool:
    a, b = one.to_arrays(), two.to_arrays()
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ([], "there are no tokens"),
        (np.array([], np.int64), "there are no tokens"),
        ([256], "token 256 is outside the vocabulary, 0 to 255"),
        ([1, 2, -1], "token -1 is outside"),
        ([1 << 40], "token 1099511627776 is outside"),
        ([(1 << 64) - 1], "is outside"),
        ([1 << 70], "whole numbers, not object"),
        ([1.0, 2.0], "whole numbers, not float64"),
        ([float("nan")], "whole numbers, not float64"),
        ([True], "whole numbers, not bool"),
        (["a"], "whole numbers, not"),
        ([None], "whole numbers, not object"),
        ([[1, 2], [3, 4]], "not of 2 dimensions"),
        (np.zeros((2, 2), np.int32), "not of 2 dimensions"),
        ([[1], [2, 3]], "of different lengths"),
        (5, "not of 0 dimensions"),
        ("text", "not of 0 dimensions"),
        (None, "not of 0 dimensions"),
    ],
)
def test_tokens_that_are_none_are_refused_and_no_state_is_touched(
    tiny_model: Model, tokens: Any, match: str
) -> None:
    _, state = tiny_model.forward([1, 2, 3])
    before = state.clone()
    with pytest.raises(InputError, match=match):
        tiny_model.forward(tokens, state)
    with pytest.raises(InputError, match=match):
        tiny_model.forward_batch([[1], tokens], [state, tiny_model.new_state()])
    assert same_arrays(state, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_tokens_may_be_integers_of_any_kind(tiny_model: Model, dtype: type[Any]) -> None:
    wanted = tiny_model.forward([0, 255, 7])[0]
    assert np.array_equal(tiny_model.forward(np.array([0, 255, 7], dtype))[0], wanted)
    strided = np.array([0, 9, 255, 9, 7], dtype)[::2]
    assert np.array_equal(tiny_model.forward(strided)[0], wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_are_new_float32_arrays_of_the_promised_shape(q8_gguf: Path, backend: str) -> None:
    with load(q8_gguf, backend) as model:
        first, state = model.forward([1, 2, 3])
        kept = first.copy()
        every, _ = model.forward(list(range(70)), state, all_logits=True)
        assert first.shape == (256,)
        assert every.shape == (70, 256)
        assert first.dtype == every.dtype == np.float32
        assert np.array_equal(first, kept)
        assert np.isfinite(every).all()


def test_forward_advances_the_given_state_in_place_and_returns_it(tiny_model: Model) -> None:
    state = tiny_model.new_state()
    assert tiny_model.forward([1], state)[1] is state
    assert not same_arrays(state, tiny_model.new_state())


def test_the_state_of_another_model_is_refused(tiny_model: Model, q8_gguf: Path) -> None:
    with Model.load(q8_gguf, "reference") as other:
        for use in (
            lambda: other.forward([1], tiny_model.new_state()),
            lambda: other.forward_batch([[1]], [tiny_model.new_state()]),
            lambda: other.stream("a", state=tiny_model.new_state()),
        ):
            with pytest.raises(StateMismatchError, match="state_from_arrays"):
                use()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_whole_prompt_equals_token_by_token_equals_any_split(
    f32_gguf: Path, backend: str
) -> None:
    # Rounding differs where sums are ordered otherwise; float32, over a few layers.
    tolerance = 1e-4
    rng = np.random.default_rng(4)
    with load(f32_gguf, backend) as model:
        wanted, whole = model.forward(list(TEXT), all_logits=True)
        close = tolerance * np.ptp(wanted, axis=1).min()
        state = model.new_state()
        for i, token in enumerate(TEXT):
            logits, _ = model.forward([token], state)
            assert np.abs(logits - wanted[i]).max() < close
        for _ in range(5):
            cuts = np.sort(rng.choice(np.arange(1, len(TEXT)), rng.integers(1, 12), replace=False))
            state = model.new_state()
            for part in np.split(np.frombuffer(TEXT, np.uint8), cuts):
                logits, _ = model.forward(part, state)
            assert np.abs(logits - wanted[-1]).max() < close
            for name, array in state.to_arrays().items():
                spread = np.ptp(whole.to_arrays()[name])
                assert np.abs(array - whole.to_arrays()[name]).max() < tolerance * spread


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "lengths", [[1], [1, 1, 1], [5, 1, 130, 64, 65, 63], [2] * 70, [1, 200] * 2, [128, 64, 1]]
)
def test_a_batch_gives_each_sequence_what_it_gets_alone(
    f32_gguf: Path, backend: str, lengths: list[int]
) -> None:
    with load(f32_gguf, backend) as model:
        sequences = [tokens_of(i, n) for i, n in enumerate(lengths)]
        contexts = [tokens_of(100 + i, 1 + i % 3) for i in range(len(lengths))]
        states = [model.forward(context)[1] for context in contexts]
        alone = [state.clone() for state in states]
        found = model.forward_batch(sequences, states)
        assert found.shape == (len(lengths), 256)
        for i, (tokens, state) in enumerate(zip(sequences, alone, strict=True)):
            wanted, _ = model.forward(tokens, state)
            assert np.abs(found[i] - wanted).max() < 1e-4 * np.ptp(wanted)
            next_wanted = model.forward([7], state)[0]
            next_found = model.forward([7], states[i])[0]
            assert np.abs(next_found - next_wanted).max() < 1e-4 * np.ptp(next_wanted)


def test_a_batch_refuses_one_state_for_two_sequences(tiny_model: Model) -> None:
    state = tiny_model.new_state()
    before = state.clone()
    with pytest.raises(InputError, match="clone it"):
        tiny_model.forward_batch([[1], [2]], [state, state])
    assert same_arrays(state, before)
    tiny_model.forward_batch([[1], [2]], [state, state.clone()])


def test_a_batch_refuses_unequal_numbers_and_none(tiny_model: Model) -> None:
    with pytest.raises(InputError, match="2 sequences came with 1 states"):
        tiny_model.forward_batch([[1], [2]], [tiny_model.new_state()])
    with pytest.raises(InputError, match="0 sequences"):
        tiny_model.forward_batch([], [])


@pytest.mark.parametrize("weights", ["q8_gguf", "q4_gguf", "f32_gguf"])
def test_any_number_of_threads_gives_the_same_bits(
    weights: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(weights)
    results = []
    for threads in (1, 2, 3):
        with Model.load(path, threads=threads) as model:
            logits, state = model.forward(list(TEXT), all_logits=True)
            one, _ = model.forward([9], state)
            batch = model.forward_batch([[1, 2, 3], [4]], [state, model.new_state()])
            results.append([logits, one, batch, state.to_arrays()["wkv"]])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_that_share_a_model_get_what_each_gets_alone(q8_gguf: Path, backend: str) -> None:
    n_tokens, n_steps = (20, 30) if backend == "numba" else (5, 8)
    with load(q8_gguf, backend, threads=2) as model:

        def conversation(seed: int) -> list[Any]:
            logits, state = model.forward(tokens_of(seed, n_tokens))
            found = [logits]
            for token in tokens_of(seed + 100, n_steps):
                logits, _ = model.forward([token], state)
                found.append(logits)
                if token % 8 == 0:
                    state = state.clone()
            return found

        alone = [conversation(seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(conversation, range(4)))
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# Calls of a kernel that a prompt takes below.
N_BLOCKS = 8


@pytest.fixture(scope="module")
def slow_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that a long prompt takes a good part of a second."""
    folder = tmp_path_factory.mktemp("slow")
    write_synthetic(folder / "slow.pth", synthetic_hyperparameters(4, 768, n_vocab=256))
    convert(folder / "slow.pth", folder / "slow.gguf", "Q8_0")
    return folder / "slow.gguf"


@pytest.mark.parametrize("backend", ["numba", "llama"])
def test_other_python_threads_run_during_forward(slow_gguf: Path, backend: str) -> None:
    with load(slow_gguf, backend) as model:
        tokens = tokens_of(1, 64 * N_BLOCKS)
        model.forward(tokens)
        looks: list[float] = []
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                looks.append(time.perf_counter())
                time.sleep(0.0005)

        spans = []
        with ThreadPoolExecutor(1) as pool:
            watcher = pool.submit(watch)
            for _ in range(5):
                began = time.perf_counter()
                model.forward(tokens)
                spans.append((began, time.perf_counter()))
            done.set()
            watcher.result()
    most = max(sum(began < t < ended for t in looks) for began, ended in spans)
    # If kernels held the GIL, a thread could look once between two of them, of 10 ms each.
    assert most > 4 * N_BLOCKS, f"{most} looks in {spans[0][1] - spans[0][0]:.4f} s"


GROWTH = """
import sys
from pathlib import Path
from rwkv_edge import Model

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

with Model.load(sys.argv[1], threads=1) as model:
    state = model.new_state()
    stream = model.stream("Once", max_tokens=20_001, temperature=1.0, seed=1, state=state,
                          stop=["\\n\\nUser:", "never said at all"])
    early = 0
    for piece in stream:
        if not early and len(stream.tokens) >= 200:
            early = resident_bytes()
    assert len(stream.tokens) == 20_001, len(stream.tokens)
    print(early, resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_memory_after_20_000_tokens_is_that_after_200(q8_gguf: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(q8_gguf)],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split())
    assert early > 10 << 20
    # A growing state or cache of 512 bytes a token would be ten times this.
    assert late - early <= 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_loading_and_closing_again_and_again_keeps_no_memory_and_no_threads(q8_gguf: Path) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def once() -> None:
        with Model.load(q8_gguf, threads=3) as model:
            model.forward([1, 2, 3])

    for _ in range(5):
        once()
    before, n_threads = resident_bytes(), threading.active_count()
    for _ in range(40):
        once()
    # A model's scratch alone is 1 MB.
    assert resident_bytes() - before < 5 << 20
    deadline = time.monotonic() + 5
    while threading.active_count() > n_threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= n_threads


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_model_says_so_whatever_is_asked_of_it(
    q8_gguf: Path, tmp_path: Path, backend: str
) -> None:
    model = load(q8_gguf, backend)
    _, state = model.forward([1, 2, 3])
    state.save(tmp_path / "a.state")
    stream = model.stream("abc", max_tokens=50, temperature=0)
    chat = model.chat()
    arrays = state.to_arrays()
    next(stream)
    model.close()
    uses: list[Callable[[], object]] = [
        model.new_state,
        lambda: model.forward([1]),
        lambda: model.forward([1], state),
        lambda: model.forward_batch([[1]], [state]),
        lambda: model.generate("a"),
        lambda: model.embed("a"),
        lambda: model.load_state(tmp_path / "a.state"),
        lambda: model.state_from_arrays(arrays),
        model.chat,
        state.clone,
        state.to_arrays,
        lambda: state.save(tmp_path / "b.state"),
        lambda: list(stream),
        lambda: list(chat.send("hello")),
    ]
    for use in uses:
        with pytest.raises(RwkvEdgeError, match="the model is closed; load it again"):
            use()
    assert not (tmp_path / "b.state").exists()
    model.close()
    # What needs no engine still answers.
    assert model.info.n_parameters > 0
    assert model.tokenizer.encode("a") == [97]


def test_closing_while_others_compute_lets_them_finish(slow_gguf: Path) -> None:
    with load(slow_gguf, "numba") as model:
        wanted = model.forward(tokens_of(1, 500))[0]
    for _ in range(3):
        model = load(slow_gguf, "numba", threads=2)
        state = model.new_state()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(model.forward, tokens_of(1, 500), state)
            while not model._n_users:
                time.sleep(0.0001)
            model.close()
            found = running.result()[0]
        assert np.array_equal(found, wanted)
        with pytest.raises(RwkvEdgeError, match="is closed"):
            model.forward([1])


def test_info_says_what_the_model_is(q8_gguf: Path, tiny_hyperparameters: Any) -> None:
    with Model.load(q8_gguf) as model:
        info = model.info
        assert (info.path, info.backend, info.file_type) == (q8_gguf, "numba", "Q8_0")
        assert info.hyperparameters == tiny_hyperparameters
        assert info.n_bytes == q8_gguf.stat().st_size
        # Two vocabulary matrices, and per layer about 4 C^2 + 2 C F and the low ranks.
        assert 690_000 < info.n_parameters < 710_000


def test_an_embedding_has_length_1_and_depends_on_the_whole_text(tiny_model: Model) -> None:
    one, two = tiny_model.embed("An old house."), tiny_model.embed("My old house.")
    assert one.shape == (128,)
    assert one.dtype == np.float32
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    assert not np.allclose(one, two, atol=1e-4)
    assert np.array_equal(one, tiny_model.embed(b"An old house."))
    with pytest.raises(InputError, match="no tokens"):
        tiny_model.embed("")


@pytest.mark.parametrize(
    ("kind", "named", "wanted"),
    [
        ("gguf", None, "numba"),
        ("gguf", "reference", "reference"),
        ("gguf", "onnx", "onnx"),
        ("onnx", None, "onnx"),
        ("onnx", "onnx:cuda", "onnx:cuda"),
        ("onnx", "numba", "numba"),
    ],
)
def test_a_file_goes_to_the_engine_of_its_kind_unless_one_is_named(
    q8_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    named: str | None,
    wanted: str,
) -> None:
    from rwkv_edge.runtime import backends

    pytest.importorskip("onnx")
    from tests.onnx_files import write_onnx

    asked: list[tuple[str, str]] = []

    def load_backend(name: str, file: Any, threads: int | None) -> None:
        asked.append((name, type(file).__name__))
        raise InputError(f"{threads} threads")

    monkeypatch.setattr(backends, "load_backend", load_backend)
    path = q8_gguf if kind == "gguf" else write_onnx(tmp_path / "m.onnx", q8_gguf)
    with pytest.raises(InputError, match="3 threads"):
        Model.load(path, named, 3)
    # The engine says itself which files it takes.
    assert asked == [(wanted, "ModelFile" if kind == "gguf" else "OnnxModelFile")]
