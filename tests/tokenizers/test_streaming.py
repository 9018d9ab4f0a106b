from hypothesis import example, given
from hypothesis import strategies as st

from rwkv_edge.tokenizers import StreamingDecoder

# Bytes that begin, continue and break characters, far oftener than chance would.
PARTS = [b"a", b"\xe4\xbd\xa0", b"\xf0\x9f\x99\x82", b"\xed\xa0", b"\xe2\x82", b"\xf0\x9f", b"\x80"]
PIECES = st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=3)))


@given(PIECES)
@example([b"\xed\xa0"])
@example([b"\xed", b"\xa0", b"\x80"])
def test_joined_pieces_equal_decoding_the_whole(pieces: list[bytes]) -> None:
    decoder = StreamingDecoder()
    text = "".join([decoder.push(piece) for piece in pieces] + [decoder.flush()])
    assert text == b"".join(pieces).decode("utf-8", "replace")


def could_become_a_character(pending: bytes) -> bool:
    """Whether some continuation makes `pending` one valid character; by trying them."""
    edges = (b"\x80", b"\x90", b"\xa0", b"\xbf")
    tails = [b""]
    for _ in range(3):
        tails += [tail + edge for tail in tails for edge in edges]
        for tail in tails:
            try:
                if len((pending + tail).decode("utf-8")) == 1:
                    return True
            except UnicodeDecodeError:
                continue
    return False


@given(PIECES)
@example([b"\xed\xa0"])
@example([b"\xf0\x80"])
def test_only_the_start_of_a_valid_character_is_held_back(pieces: list[bytes]) -> None:
    decoder = StreamingDecoder()
    whole = b""
    text = ""
    for piece in pieces:
        whole += piece
        text += decoder.push(piece)
        held_back = next(
            n for n in range(4) if whole[: len(whole) - n].decode("utf-8", "replace") == text
        )
        assert held_back == 0 or could_become_a_character(whole[-held_back:])


def test_half_a_character_waits_for_its_other_half() -> None:
    decoder = StreamingDecoder()
    assert [decoder.push(b"\xe4\xbd"), decoder.push(b""), decoder.push(b"\xa0!")] == ["", "", "你!"]


def test_a_flushed_decoder_starts_anew() -> None:
    decoder = StreamingDecoder()
    assert (decoder.push(b"\xe4"), decoder.flush(), decoder.push(b"a")) == ("", "\ufffd", "a")
