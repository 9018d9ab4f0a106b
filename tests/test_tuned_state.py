"""The key that holds a tuned state: what is written is read, anything else is refused; and every
place where a fresh state begins, begins with it.
"""

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from rwkv_edge import BackendUnavailableError, FormatError, Model
from rwkv_edge.comparison import compare
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.perplexity import measure_perplexity
from rwkv_edge.runtime.backends import BACKENDS
from rwkv_edge.tuned_state import TUNED_STATE_KEY, decode_tuned_state, encode_tuned_state
from tests.exported import file_for

Alter = Callable[..., Path]
SHAPE = (3, 2, 64, 64)
TOKENS = np.random.default_rng(0).integers(0, 256, 40).astype(np.int32)
# float32 sums in another order; relative to the spread of the logits.
SAME_NUMBERS = 1e-4


@pytest.fixture(scope="module")
def wkv() -> npt.NDArray[np.float32]:
    """For the tiny model of all tests."""
    return np.random.default_rng(1).normal(0, 0.3, SHAPE).astype(np.float32)


@pytest.fixture
def tuned_gguf(altered_gguf: Alter, f32_gguf: Path, wkv: npt.NDArray[np.float32]) -> Path:
    return altered_gguf(f32_gguf, keys={TUNED_STATE_KEY: encode_tuned_state(wkv)})


@pytest.fixture(params=list(BACKENDS))
def model(request: pytest.FixtureRequest, tuned_gguf: Path) -> Iterator[Model]:
    try:
        loaded = Model.load(file_for(request.param, tuned_gguf), request.param, threads=2)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    with loaded:
        yield loaded


@pytest.fixture(scope="module")
def wanted(
    f32_gguf: Path, wkv: npt.NDArray[np.float32]
) -> Iterator[Callable[..., npt.NDArray[np.float32]]]:
    """Logits after every token of the reference, begun with the arrays by hand."""
    with Model.load(f32_gguf, "reference") as reference:
        arrays = {**reference.new_state().to_arrays(), "wkv": wkv}

        def logits(tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
            return reference.forward(tokens, reference.state_from_arrays(arrays), all_logits=True)[
                0
            ]

        yield logits


def difference(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    return float(np.abs(found - wanted).max() / np.ptp(wanted))


def test_what_is_encoded_is_decoded(wkv: npt.NDArray[np.float32]) -> None:
    assert np.array_equal(decode_tuned_state(as_read(encode_tuned_state(wkv)), SHAPE), wkv)


def as_read(texts: list[str]) -> list[bytes]:
    """GGUF texts in a list are read as bytes."""
    return [text.encode() for text in texts]


def test_a_fresh_state_begins_with_it_and_zeros(model: Model, wkv: npt.NDArray[np.float32]) -> None:
    assert model.info.tuned_state
    arrays = model.new_state().to_arrays()
    assert np.array_equal(arrays["wkv"], wkv)
    assert not arrays["att_x"].any()
    assert not arrays["ffn_x"].any()


def test_each_call_that_begins_anew_begins_with_it(
    model: Model, wanted: Callable[..., npt.NDArray[np.float32]]
) -> None:
    rows = wanted(TOKENS)
    for _ in range(2):
        # The second time shows that the first left it as it was.
        assert difference(model.forward(TOKENS, all_logits=True)[0], rows) < SAME_NUMBERS
        states = [model.new_state() for _ in range(3)]
        last = model.forward_batch([TOKENS, TOKENS[:1], TOKENS[:17]], states)
        assert difference(last, rows[[-1, 0, 16]]) < SAME_NUMBERS
        state = model.new_state()
        step = np.stack([model.forward([token], state)[0] for token in TOKENS])
        assert difference(step, rows) < SAME_NUMBERS


def greedy(
    logits: Callable[..., npt.NDArray[np.float32]], prompt: bytes, n_tokens: int
) -> list[int]:
    """Tokens by the largest of the reference's logits; those of bytes are the bytes."""
    tokens = list(prompt)
    for _ in range(n_tokens):
        tokens.append(int(logits(np.array(tokens, np.int32))[-1].argmax()))
    return tokens[len(prompt) :]


def test_text_is_written_from_it_on(
    model: Model, wanted: Callable[..., npt.NDArray[np.float32]], f32_gguf: Path
) -> None:
    found = model.stream(b"Once", max_tokens=8, temperature=0)
    assert "".join(found) is not None
    assert found.tokens == greedy(wanted, b"Once", 8)
    with Model.load(f32_gguf, "reference") as plain:
        other = plain.stream(b"Once", max_tokens=8, temperature=0)
        list(other)
    assert other.tokens != found.tokens


def test_a_conversation_begins_with_it_and_again_after_a_reset(
    model: Model, wkv: npt.NDArray[np.float32]
) -> None:
    chat = model.chat(template="raven", max_tokens=3, seed=1)
    assert np.array_equal(chat.state.to_arrays()["wkv"], wkv)
    "".join(chat.send("Hello"))
    assert not np.array_equal(chat.state.to_arrays()["wkv"], wkv)
    chat.undo()
    assert np.array_equal(chat.state.to_arrays()["wkv"], wkv)


def test_measures_and_readings_begin_with_it(
    model: Model, wanted: Callable[..., npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    text = bytes(TOKENS.astype(np.uint8))
    (tmp_path / "t").write_bytes(text)
    reading = model.read(tmp_path / "t")
    list(reading)
    logits, _ = model.forward([1], reading.state)
    assert difference(logits, wanted(np.append(TOKENS, np.int32(1)))[-1]) < SAME_NUMBERS
    with open(tmp_path / "t", "rb") as file:
        result = measure_perplexity(model, file)
    rows = wanted(TOKENS)[:-1].astype(np.float64)
    chosen = rows[np.arange(len(rows)), TOKENS[1:]]
    nats = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1) - chosen
    assert abs(result.nats_per_token - nats.mean()) < 0.05


def test_engines_agree_when_they_begin_with_it(model: Model, tuned_gguf: Path) -> None:
    with Model.load(tuned_gguf, "reference") as reference:
        (agreement,) = compare([reference, model], TOKENS)
    assert agreement.relative_difference < SAME_NUMBERS


def test_embeddings_begin_with_it(model: Model, f32_gguf: Path) -> None:
    with Model.load(f32_gguf, "reference") as plain:
        without = plain.embed("A sentence.")
    assert np.abs(model.embed("A sentence.") - without).max() > 1e-3


def test_zeros_can_be_asked_for(
    tuned_gguf: Path, f32_gguf: Path, wkv: npt.NDArray[np.float32]
) -> None:
    with (
        Model.load(tuned_gguf, "reference", tuned_state=False) as model,
        Model.load(f32_gguf, "reference") as plain,
    ):
        assert not model.info.tuned_state
        assert not plain.info.tuned_state
        assert not model.new_state().to_arrays()["wkv"].any()
        assert np.array_equal(model.forward(TOKENS)[0], plain.forward(TOKENS)[0])


def test_a_state_goes_on_wherever_it_began(
    tuned_gguf: Path, f32_gguf: Path, tmp_path: Path
) -> None:
    """The weights are the same, and all that was tuned is in the state already."""
    with Model.load(tuned_gguf, "reference") as tuned, Model.load(f32_gguf, "reference") as plain:
        assert tuned.fingerprint == plain.fingerprint
        for begun, other in ((tuned, plain), (plain, tuned)):
            _, state = begun.forward(TOKENS[:20])
            state.save(tmp_path / "a.state")
            wanted = begun.forward(TOKENS[20:], state)[0]
            found = other.forward(TOKENS[20:], other.load_state(tmp_path / "a.state"))[0]
            assert np.array_equal(found, wanted)


GOOD = 4 * -(-2 * 64 * 64 * 4 // 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([b"A" * GOOD] * 2, "holds 2 texts; wanted one for each of 3 layers"),
        ([b"A" * GOOD] * 4, "holds 4 texts"),
        ("A" * GOOD, "holds no list of texts"),
        (7, "holds no list of texts"),
        (np.zeros(3, np.float32), "holds no list of texts"),
        ([b"A" * GOOD, b"", b"A" * GOOD], "holds 0 characters for layer 1"),
        ([b"A" * (GOOD + 4)] * 3, "for layer 0; .* numbers need 43,692"),
        ([b"?" * GOOD] * 3, "of layer 0 is no base64"),
        ([b"\xff" * GOOD] * 3, "of layer 0 is no base64"),
        ([b"A" * GOOD] * 3, "of layer 0 is no base64"),
        ([b"A" * (GOOD - 4) + b"===="] * 3, "of layer 0 is no base64"),
        (encode_tuned_state(np.full(SHAPE, np.nan, np.float32)), "numbers that are not finite"),
        (encode_tuned_state(np.full(SHAPE, np.inf, np.float32)), "numbers that are not finite"),
    ],
)
def test_a_key_that_lies_is_refused_unless_it_is_not_wanted(
    altered_gguf: Alter, f32_gguf: Path, value: Any, message: str
) -> None:
    path = altered_gguf(f32_gguf, keys={TUNED_STATE_KEY: value})
    with pytest.raises(FormatError, match=message) as caught:
        Model.load(path, "reference")
    assert str(caught.value).startswith(f"{path}: key {TUNED_STATE_KEY} ")
    assert str(caught.value).isprintable()
    with Model.load(path, "reference", tuned_state=False) as model:
        assert not model.new_state().to_arrays()["wkv"].any()


def test_nothing_is_allocated_for_a_shape_that_is_not_there() -> None:
    tracemalloc.start()
    with pytest.raises(FormatError):
        decode_tuned_state([b"A"] * 1000, (1000, 1 << 20, 1 << 10, 1 << 10))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_state_as_large_as_that_of_a_14b_model_is_read(tmp_path: Path) -> None:
    """85 MB of texts, where a header without them has one."""
    shape = (61, 64, 64, 64)
    wkv = np.ones((1, *shape[1:]), np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "rwkv6")
    writer.add_array(TUNED_STATE_KEY, encode_tuned_state(wkv) * shape[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with GgufFile(tmp_path / "m.gguf") as file:
        assert (decode_tuned_state(file.metadata[TUNED_STATE_KEY], shape) == 1).all()
    (tmp_path / "m.gguf").unlink()


def test_a_version_without_matrices_has_none(altered_gguf: Alter, tmp_path: Path) -> None:
    from rwkv_edge.converters.convert import convert
    from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic

    hp = synthetic_hyperparameters(1, 64, version="4", n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf")
    path = altered_gguf(tmp_path / "m.gguf", keys={TUNED_STATE_KEY: [b"AAAA"]})
    with pytest.raises(FormatError, match="a state of RWKV-4 has no matrices"):
        Model.load(path, "reference")


def test_a_digest_of_adapters_that_is_no_text_is_refused(
    altered_gguf: Alter, f32_gguf: Path
) -> None:
    path = altered_gguf(f32_gguf, keys={"rwkv_edge.adapters": 7})
    with pytest.raises(FormatError, match=r"key rwkv_edge\.adapters is not a text"):
        Model.load(path, "reference")
