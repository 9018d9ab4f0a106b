"""Sentence embeddings: which numbers of the state they are, alone, together and in every engine."""

from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import BackendUnavailableError, InputError, Model
from rwkv_edge.builtin import checkpoint_path
from rwkv_edge.converters.convert import convert
from rwkv_edge.embedding import BATCH_TEXTS, PROMPT, embedding_of

TEXTS = [f"Text {i}: " + "a llama and a barn. " * (i % 5) for i in range(BATCH_TEXTS + 3)]


@pytest.mark.parametrize("prompt", [PROMPT, "", " is"])
def test_it_is_the_last_channel_mix_s_input_after_text_and_prompt(
    f32_gguf: Path, prompt: str
) -> None:
    with Model.load(f32_gguf, "reference") as model:
        state = model.new_state()
        for byte in (TEXTS[4] + prompt).encode():
            model.forward([byte], state)
        row = state.to_arrays()["ffn_x"][2].astype(np.float64)
        found = model.embed(TEXTS[4], prompt=prompt)
    assert found.shape == (128,)
    assert found.dtype == np.float32
    # One rounding to float32 of each number, and of the length.
    np.testing.assert_allclose(found, row / np.sqrt((row**2).sum()), rtol=1e-6)


def test_what_is_said_after_a_text_is_no_part_of_its_last_token(words_model: Model) -> None:
    """The vocabulary has a token for two newlines, and one for them with a word after."""
    encode = words_model.tokenizer.encode
    text, prompt = "END\n", "\nUser"
    assert encode(text + prompt) != encode(text) + encode(prompt)
    _, state = words_model.forward([*encode(text), *encode(prompt)])
    wanted = embedding_of(state.to_arrays())
    np.testing.assert_allclose(words_model.embed(text, prompt=prompt), wanted, atol=1e-6)


@pytest.mark.parametrize("backend", ["numba", "reference", "llama"])
def test_many_texts_get_what_each_gets_alone(f32_gguf: Path, backend: str) -> None:
    try:
        model = Model.load(f32_gguf, backend, threads=1)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    with model:
        together = model.embed(TEXTS)
        alone = np.stack([model.embed(text) for text in TEXTS])
    assert together.shape == (len(TEXTS), 128)
    assert together.dtype == np.float32
    # float32 sums in another order; the numbers are of a vector of length 1.
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    # Texts that differ in a digit are not the same to it.
    assert np.abs(together[0] - together[5]).max() > 1e-4


def test_engines_agree_on_an_embedding(tmp_path: Path) -> None:
    path = tmp_path / "builtin.gguf"
    convert(checkpoint_path(), path, "F32")
    found = {}
    for backend in ("numba", "reference", "llama"):
        try:
            with Model.load(path, backend) as model:
                found[backend] = model.embed(["A table has rows.", "It is copied to the disk."])
        except BackendUnavailableError:
            assert backend == "llama"
    for rows in found.values():
        # float32 sums in another order, through four layers.
        np.testing.assert_allclose(rows, found["reference"], atol=1e-4)


def test_paragraphs_of_one_page_are_nearer_than_those_of_two(tmp_path: Path) -> None:
    path = tmp_path / "builtin.gguf"
    convert(checkpoint_path(), path, "Q8_0")
    pages = [
        [
            "SUM adds the numbers of all rows in the group.",
            "AVG gives the mean of the values of a column.",
            "COUNT tells how many rows the query has found.",
        ],
        [
            "The thread waits until the lock is released.",
            "A mutex lets only one thread at a time into the block.",
            "Two threads that wait for each other never go on.",
        ],
    ]
    with Model.load(path) as model:
        rows = model.embed([text for page in pages for text in page])
    similar = (rows @ rows.T).reshape(2, 3, 2, 3)
    off_diagonal = ~np.eye(3, dtype=bool)
    own = [similar[i, :, i][off_diagonal].mean() for i in range(2)]
    assert min(own) > similar[0, :, 1].mean()


def test_a_text_without_tokens_is_refused(tiny_model: Model) -> None:
    with pytest.raises(InputError, match="text 1 of 1 is empty: there are no tokens"):
        tiny_model.embed("")
    with pytest.raises(InputError, match="text 2 of 3 is empty: there are no tokens"):
        tiny_model.embed(["a", b"", "c"])
    for wrong in ([1, 2], [["a"]], [None]):
        with pytest.raises(InputError, match=r"text 1 of . is of type .*; give str or bytes"):
            tiny_model.embed(wrong)  # type: ignore[arg-type]


def test_no_texts_give_no_rows(tiny_model: Model) -> None:
    assert tiny_model.embed([]).shape == (0, 128)


def test_the_states_of_all_versions_have_what_it_takes() -> None:
    ffn_x = np.arange(12, dtype=np.float32).reshape(3, 4)
    wanted = ffn_x[2] / np.sqrt(8**2 + 9**2 + 10**2 + 11**2)
    version_4 = {name: np.full((3, 4), 9, np.float32) for name in ("att_x", "aa", "bb", "pp")}
    others = {"att_x": ffn_x, "wkv": np.ones((3, 2, 2, 2), np.float32)}
    for arrays in (version_4, others):
        np.testing.assert_allclose(embedding_of({**arrays, "ffn_x": ffn_x}), wanted, rtol=1e-6)
    assert ffn_x[2, 0] == 8
    assert not embedding_of({"ffn_x": np.zeros((3, 4), np.float32)}).any()
