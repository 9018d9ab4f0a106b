"""Which tokenizer a checkpoint gets."""

from pathlib import Path

import pytest

from rwkv_edge.converters.tokenizers import choose_tokenizer
from rwkv_edge.errors import FormatError, UnsupportedModelError

pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")
from tests.tokenizers.foreign_files import neox_json, sentencepiece_model

SMALL = "1 'a' 1\n2 'b c' 3\n3 b'\\xff' 1\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_number_of_embeddings_chooses(source: Path) -> None:
    world = choose_tokenizer(source, 65536, None)
    assert (world.kind, world.n_ids, world.chat_template) == ("world", 65530, "world")
    assert world.is_padded_always
    assert choose_tokenizer(source, 256, None).kind == "bytes"
    with pytest.raises(UnsupportedModelError, match=r"has 1000 embeddings.*model\.vocab\.txt"):
        choose_tokenizer(source, 1000, None)


def test_a_pile_model_without_its_file_says_which_to_get_and_where_to_put_it(source: Path) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        choose_tokenizer(source, 50277, None)
    assert f"20B_tokenizer.json of GPT-NeoX-20B and put it at {source.parent}" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["20B_tokenizer.json", "tokenizer.json"])
@pytest.mark.parametrize("n_vocab", [50277, 1000])
def test_a_file_of_a_usual_name_beside_is_used(source: Path, name: str, n_vocab: int) -> None:
    beside = write(source.with_name(name), neox_json())
    found = choose_tokenizer(source, n_vocab, None)
    assert (found.kind, found.origin) == ("huggingface", str(beside))
    # 65,536 and 256 embeddings say enough; one folder may hold models of several kinds.
    assert choose_tokenizer(source, 65536, None).kind == "world"
    assert choose_tokenizer(source, 256, None).kind == "bytes"


def test_a_sentencepiece_model_beside_is_used(source: Path) -> None:
    write(source.with_name("tokenizer.model"), sentencepiece_model("bpe", "identity"))
    assert choose_tokenizer(source, 1000, None).kind == "sentencepiece"


def test_a_file_called_as_the_checkpoint_comes_before_all_others(source: Path) -> None:
    write(source.with_name("20B_tokenizer.json"), neox_json())
    beside = write(source.with_name("model.vocab.txt"), SMALL)
    for n_vocab in (256, 1000, 50277, 65536):
        assert choose_tokenizer(source, n_vocab, None).origin == str(beside)


def test_a_named_file_comes_before_everything(source: Path, tmp_path: Path) -> None:
    write(source.with_name("model.vocab.txt"), SMALL)
    named = write(tmp_path / "named", neox_json())
    for n_vocab in (1000, 65536):
        found = choose_tokenizer(source, n_vocab, named)
        assert (found.kind, found.origin) == ("huggingface", str(named))


@pytest.mark.parametrize(
    ("content", "n_ids"),
    [(SMALL, 4), (neox_json(), 504), (sentencepiece_model("bpe", "identity"), 420)],
)
def test_a_tokenizer_larger_than_the_model_is_refused(
    source: Path, tmp_path: Path, content: str | bytes, n_ids: int
) -> None:
    path = write(tmp_path / "named", content)
    assert choose_tokenizer(source, n_ids, path).n_ids == n_ids
    with pytest.raises(FormatError, match="it belongs to another model") as caught:
        choose_tokenizer(source, n_ids - 1, path)
    assert str(caught.value).startswith(f"{path}: ")
