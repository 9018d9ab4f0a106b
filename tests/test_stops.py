import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rwkv_edge.errors import InputError
from rwkv_edge.stops import Rollback, StopMatcher

TOKENS = st.lists(st.text("ab", max_size=4).map(str.encode), max_size=15)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def first_stop(text: bytes, stops: list[str]) -> tuple[int, int] | None:
    """The definition: start and end of the stop text that is complete first, the longest such."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop.encode())]
        if starts:
            return min(starts), end
    return None


@given(TOKENS, STOPS)
@example([b"a", b"ab"], ["aab", "ab"])
@example([b"aa", b"", b"b"], ["ab"])
@example([b"abbb"], ["abbb", "bb"])
@example([b"abb"], ["bb", "abb"])
def test_the_text_ends_before_the_stop_text_that_is_complete_first(
    tokens: list[bytes], stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    given_out = b""
    for n_read, token in enumerate(tokens, 1):
        ready, stopped = matcher.push(token)
        given_out += ready
        so_far = b"".join(tokens[:n_read])
        found = first_stop(so_far, stops)
        assert stopped == matcher.stopped == (found is not None)
        if found:
            assert given_out == so_far[: found[0]]
            break
        # Held back is the longest end that begins a stop text, and not a byte more.
        held = next(
            n
            for n in range(len(so_far), -1, -1)
            if any(stop.encode().startswith(so_far[len(so_far) - n :]) for stop in [*stops, ""])
        )
        assert given_out == so_far[: len(so_far) - held]
    if not matcher.stopped:
        assert given_out + matcher.flush() == b"".join(tokens)


@given(TOKENS, STOPS)
@example([b"ab", b"", b"b", b"b"], ["abbb"])
def test_rolling_back_gives_the_text_before_the_stop_text(
    tokens: list[bytes], stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    for n_read, token in enumerate(tokens, 1):
        if matcher.push(token)[1]:
            rollback = matcher.rollback
            found = first_stop(b"".join(tokens[:n_read]), stops)
            assert rollback is not None
            assert found is not None
            kept = tokens[: n_read - rollback.n_tokens]
            before = b"".join(tokens[:n_read])[: found[0]]
            assert b"".join(kept) + rollback.text_before == before
            # It goes back no further than it must: the first token taken back has a stop byte.
            assert len(b"".join(kept)) + len(tokens[len(kept)]) > found[0]
            return


def test_a_stop_text_across_tokens_is_never_shown() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    shown = [matcher.push(token) for token in (b" Yes", b".\n", b"\n", b"Us", b"er", b": hi")]
    assert shown == [
        (b" Yes", False), (b".", False), (b"", False), (b"", False), (b"", False), (b"", True),
    ]  # fmt: skip
    assert matcher.rollback == Rollback(n_tokens=5, text_before=b".")


def test_a_beginning_that_leads_nowhere_is_given_out() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert matcher.push(b"\n\nUse") == (b"", False)
    assert matcher.push(b" it") == (b"\n\nUse it", False)
    assert matcher.rollback is None


def test_nothing_comes_after_the_stop_text() -> None:
    matcher = StopMatcher("END")
    assert matcher.push(b"a END b") == (b"a ", True)
    assert matcher.push(b"c") == (b"", True)
    assert matcher.flush() == b""


def test_a_flushed_matcher_starts_anew() -> None:
    matcher = StopMatcher([b"ab"])
    matcher.push(b"xab")
    matcher.flush()
    assert not matcher.stopped
    assert (matcher.push(b"a"), matcher.flush()) == ((b"", False), b"a")
    assert matcher.push(b"b") == (b"b", False)


def test_memory_does_not_grow_with_the_text() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    for _ in range(1000):
        matcher.push(b"\n")
        matcher.push(b"")
    assert len(matcher._tokens) <= 4


def test_stop_texts_match_bytes_of_utf8() -> None:
    matcher = StopMatcher(["。"])
    assert matcher.push("好。".encode()[:4]) == ("好".encode(), False)
    assert matcher.push("。".encode()[1:]) == (b"", True)


def test_an_empty_stop_text_is_refused() -> None:
    for stops in ("", b"", ["a", ""]):
        with pytest.raises(InputError, match="a stop text is empty"):
            StopMatcher(stops)
