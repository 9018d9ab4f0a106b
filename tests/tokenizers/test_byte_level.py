import pytest

from rwkv_edge.errors import InputError
from rwkv_edge.tokenizers import ByteTokenizer


def test_tokens_are_the_bytes_of_the_text() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("é") == [0xC3, 0xA9]
    assert tokenizer.encode(bytes(range(256))) == list(range(256))
    assert tokenizer.decode_bytes(range(256)) == bytes(range(256))
    assert tokenizer.end_of_document is None


def test_padding_ids_have_no_text() -> None:
    assert ByteTokenizer(300).decode([65, 299, 66]) == "AB"


@pytest.mark.parametrize("token", [-1, 256])
def test_a_token_out_of_range_is_refused(token: int) -> None:
    with pytest.raises(InputError):
        ByteTokenizer().token_bytes(token)
