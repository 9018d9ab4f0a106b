"""The wire format of protobuf, as far as ONNX files need it, in bytes that may be made to harm.

A message is a row of fields, each with a number and a kind; what a kind holds is either a number of
variable length, or so many bytes, which may be a message again. Source: protobuf's encoding guide.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rwkv_edge.errors import FormatError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
MAX_VARINT_BYTES = 10
# Numbers wrap at 64 bits, negative ones take all of them.
VARINT_BITS = 64
# The tag of a field is its number and, in these bits, its kind.
KIND_BITS = 3
MAX_FIELD_NUMBER = (1 << 29) - 1
# Each takes a microsecond or two to pass; the graph of 61 layers has some 50,000.
MAX_FIELDS = 1 << 19
# A name in a model takes some ten bytes; what foreign exporters make of paths, some hundred.
MAX_NAME_BYTES = 4096
# All texts together. World's vocabulary is 0.8 MB of JSON; of other texts, what they take in memory
# while they are read may be several times as much.
MAX_TEXT_BYTES = 16 << 20


class Field(NamedTuple):
    """One field: `value` of a VARINT, else where its bytes begin and end."""

    number: int
    kind: int
    value: int
    start: int
    end: int


class Wire:
    """Walks a mapped file; whatever it finds lies inside the message that it was found in."""

    def __init__(self, buffer: mmap.mmap, path: Path, max_fields: int = MAX_FIELDS) -> None:
        self.buffer = buffer
        self.path = path
        self._max_fields = max_fields
        self._n_fields = 0
        self._n_text_bytes = 0

    def fail(self, problem: str) -> FormatError:
        """The error for a damaged file, to raise."""
        return FormatError(f"{self.path}: {problem}; download or export it again")

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """An unsigned number of 7 bits a byte, lowest first, and where it ends."""
        buffer = self.buffer
        # Most are this short.
        if position < end and (value := buffer[position]) < 0x80:
            return value, position + 1
        value = 0
        for i in range(min(end - position, MAX_VARINT_BYTES)):
            byte = buffer[position + i]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return value & ((1 << VARINT_BITS) - 1), position + i + 1
        raise self.fail(f"a number at byte {position:,} has no end")

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message in these bytes; raises FormatError."""
        position = start
        while position < end:
            self._n_fields += 1
            if self._n_fields > self._max_fields:
                raise self.fail(f"it has more parts than any model, {self._max_fields:,}")
            at = position
            tag, position = self.varint(position, end)
            number, kind = tag >> KIND_BITS, tag & ((1 << KIND_BITS) - 1)
            if not 1 <= number <= MAX_FIELD_NUMBER:
                raise self.fail(f"field {number} at byte {at:,} cannot be")
            if kind == VARINT:
                value, position = self.varint(position, end)
                yield Field(number, kind, value, position, position)
                continue
            if kind == LENGTH:
                n_bytes, position = self.varint(position, end)
            elif kind in FIXED_BYTES:
                n_bytes = FIXED_BYTES[kind]
            else:
                # Groups, which nothing has written for long, and what does not exist.
                raise self.fail(f"field {number} at byte {at:,} is of kind {kind}")
            if n_bytes > end - position:
                raise self.fail(
                    f"the file ends inside field {number} at byte {at:,}"
                    if end == len(self.buffer)
                    else f"field {number} at byte {at:,} is longer than what it is part of"
                )
            yield Field(number, kind, 0, position, position + n_bytes)
            position += n_bytes

    def known(self, start: int, end: int, kinds: dict[int, int], what: str) -> Iterator[Field]:
        """The fields of `kinds`, by number; all others are skipped, but not one of another kind."""
        for field in self.fields(start, end):
            if field.number in kinds:
                self.require_kind(field, kinds[field.number], what)
                yield field

    def require_kind(self, field: Field, kind: int, what: str) -> None:
        """Raise FormatError for a field that does not hold what one of its number does."""
        if field.kind != kind:
            raise self.fail(
                f"field {field.number} of {what} at byte {field.start:,} is of kind {field.kind}, "
                f"not {kind}"
            )

    def single(self, seen: set[int], field: Field, what: str) -> None:
        """Note a field that may stand once; raises FormatError where it stands again.

        A protobuf reader would take the last, or merge them; no writer asks for that, and of two
        readers that differ one would be shown another model than the other runs.
        """
        if field.number in seen:
            raise self.fail(f"it holds field {field.number} of {what} twice")
        seen.add(field.number)

    def singles(
        self, part: Field, what: str, kinds: dict[int, int]
    ) -> tuple[dict[int, Field], dict[int, int]]:
        """The fields of a message that may stand once: those with bytes, and numbers, by number."""
        seen: set[int] = set()
        parts: dict[int, Field] = {}
        numbers: dict[int, int] = {}
        for field in self.known(part.start, part.end, kinds, what):
            self.single(seen, field, what)
            if field.kind == VARINT:
                numbers[field.number] = field.value
            else:
                parts[field.number] = field
        return parts, numbers

    def text(self, field: Field, what: str, most: int = MAX_NAME_BYTES, weight: int = 1) -> str:
        """The text of a field; raises FormatError if it is none, or one too many.

        weight: how often its bytes count.
        """
        n_bytes = field.end - field.start
        if n_bytes > most:
            raise self.fail(f"{what} of {n_bytes:,} bytes is longer than any, {most:,}")
        self.count_text(n_bytes * weight)
        try:
            # Out of the map at once: `bytes` between would be a second copy.
            with memoryview(self.buffer) as view, view[field.start : field.end] as raw:
                return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not valid UTF-8") from None

    def count_text(self, n_bytes: int) -> None:
        """Note so much text that is kept; raises FormatError once it is more than a model has."""
        self._n_text_bytes += n_bytes
        if self._n_text_bytes > MAX_TEXT_BYTES:
            raise self.fail(f"it holds more text than any model, {MAX_TEXT_BYTES:,} bytes")

    def integers(self, field: Field) -> Iterator[int]:
        """The numbers of a repeated int64, packed or one by one."""
        if field.kind == VARINT:
            yield signed(field.value)
            return
        self.require_kind(field, LENGTH, "a list of numbers")
        position = field.start
        while position < field.end:
            value, position = self.varint(position, field.end)
            yield signed(value)


def signed(value: int) -> int:
    """An int64 as it stands in a varint."""
    return value - (1 << VARINT_BITS) if value >> (VARINT_BITS - 1) else value
