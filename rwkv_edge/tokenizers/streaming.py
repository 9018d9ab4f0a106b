"""Text as it comes: characters out of tokens that may end in the middle of one."""

import codecs


class StreamingDecoder:
    """UTF-8 piece by piece: never half a character, and never a byte held back needlessly.

    The pieces joined equal `bytes.decode("utf-8", "replace")` of the whole.
    """

    def __init__(self) -> None:
        """A decoder that has seen nothing."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_bytes: bytes) -> str:
        """The characters that are complete now; U+FFFD for bytes that can no longer become one."""
        text = self._decoder.decode(token_bytes)
        pending, _ = self._decoder.getstate()
        if pending[:1] == b"\xed" and pending[1:] >= b"\xa0":
            # The start of a surrogate, which UTF-8 forbids; the codec would wait for its end.
            text += self.flush()
        return text

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character. The decoder starts anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
