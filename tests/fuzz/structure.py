"""Changes that know a kind of file: its counts, types and offsets, its JSON, its instructions."""

import copy
import json
import pickle
import pickletools
import random
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from tests.fuzz.mutations import BOUNDARIES, Change, boundary, replaced

# Bytes of a GGUF value, by its number.
GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
GGUF_STRING, GGUF_ARRAY = 8, 9
# Offset, bytes, what it is.
Field = tuple[int, int, str]
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1 << 31, 1 << 63, 1 << 64, 0.5, 1e308, "", "x", "a\n\x1b[2J", "\ud800",
    [], {}, [[]], [None], {"type": "x"}, "▁", "x" * 300,
)  # fmt: skip


@lru_cache(maxsize=64)
def gguf_fields(data: bytes) -> tuple[Field, ...]:
    """Every number in the header of a GGUF, as far as it can be walked."""
    found: list[Field] = [(4, 4, "version"), (8, 8, "count"), (16, 8, "count")]
    position = 24

    def number(n_bytes: int, what: str) -> int:
        nonlocal position
        if position + n_bytes > len(data):
            raise EOFError
        found.append((position, n_bytes, what))
        position += n_bytes
        return int.from_bytes(data[position - n_bytes : position], "little")

    def string() -> None:
        nonlocal position
        n_bytes = number(8, "length")
        position += n_bytes

    def value(kind: int) -> None:
        if kind == GGUF_STRING:
            string()
        elif kind in GGUF_SIZES:
            number(GGUF_SIZES[kind], "value")
        else:
            raise EOFError

    try:
        n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
        for _ in range(min(n_keys, 1000)):
            string()
            kind = number(4, "type")
            if kind != GGUF_ARRAY:
                value(kind)
                continue
            item = number(4, "type")
            for _ in range(min(number(8, "count"), 2000)):
                value(item)
        for _ in range(min(n_tensors, 1000)):
            string()
            for _ in range(min(number(4, "dimensions"), 8)):
                number(8, "dimension")
            number(4, "weight type")
            number(8, "offset")
    except (EOFError, struct.error):
        pass
    return tuple(found)


def set_gguf_number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A count, type, dimension, offset or value: another one."""
    del others
    if len(data) < 24:
        return data
    fields = gguf_fields(data)
    # Each kind as often as any other: most are lengths and values.
    what = rng.choice(sorted({field[2] for field in fields}))
    at, n_bytes, _ = rng.choice([field for field in fields if field[2] == what])
    old = int.from_bytes(data[at : at + n_bytes], "little")
    new = rng.choice(
        [
            boundary(rng, n_bytes, len(data)),
            ((old + rng.choice([-32, -1, 1, 32])) % (1 << 8 * n_bytes)).to_bytes(n_bytes, "little"),
            rng.randrange(16).to_bytes(n_bytes, "little"),
        ]
    )
    return replaced(data, at, n_bytes, new)


def copy_gguf_number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One tensor's offset, say, in place of another's."""
    del others
    if len(data) < 24:
        return data
    fields = gguf_fields(data)
    to = rng.choice(fields)
    same = [field for field in fields if field[2] == to[2] and field[1] == to[1]]
    start, n_bytes, _ = rng.choice(same)
    return replaced(data, to[0], n_bytes, data[start : start + n_bytes])


def odd_value(rng: random.Random) -> Any:
    """A value that its place may not expect; a copy, which later changes may change."""
    return copy.deepcopy(rng.choice([*ODD_VALUES, rng.choice(BOUNDARIES)]))


def change_json(rng: random.Random, text: bytes, n_changes: int = 1) -> bytes:
    """JSON with another value, or one more or less, somewhere in it."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for _ in range(n_changes):
        parents: list[Any] = []
        level = [content]
        while level and len(parents) < 5000:
            holders = [value for value in level if isinstance(value, (dict, list)) and value]
            parents += holders
            level = [
                v for h in holders for v in (h.values() if isinstance(h, dict) else h)
            ][:5000]  # fmt: skip
        if not parents:
            break
        # Those near the top matter more than the thousandth entry of a vocabulary.
        parent = rng.choice(parents[: 1 << rng.randint(1, 12)])
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        action = rng.randrange(5)
        if action == 0:
            del parent[key]
        elif action == 1:
            parent[key] = odd_value(rng)
        elif action == 2 and isinstance(parent[key], int):
            parent[key] += rng.choice([-1, 1, 255])
        elif action == 3:
            giver = rng.choice(parents)
            taken = rng.choice(list(giver.values() if isinstance(giver, dict) else giver) or [0])
            parent[key] = json.loads(json.dumps(taken))
        elif isinstance(parent, dict):
            parent[str(odd_value(rng))] = odd_value(rng)
        else:
            parent.insert(rng.randrange(len(parent) + 1), odd_value(rng))
    return json.dumps(content).encode("utf-8", "surrogatepass")


def set_json(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    del others
    return change_json(rng, data, rng.randint(1, 3))


def nest_json(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A value inside ten thousand lists or objects."""
    del others
    at = data.find(b":", rng.randrange(max(1, len(data)))) + 1
    depth = rng.choice([30, 40, 990, 100_000])
    if rng.random() < 0.5:
        return replaced(data, at, 0, b"[" * depth + b"]" * depth + b",")
    return replaced(data, at, 0, b'{"a":' * depth + b"1" + b"}" * depth + b",")


def set_safetensors_header(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Another header; its length is told most of the time."""
    del others
    if len(data) < 8:
        return data
    n_bytes = int.from_bytes(data[:8], "little")
    header = change_json(rng, data[8 : 8 + n_bytes], rng.randint(1, 3))
    length = len(header) if rng.random() < 0.9 else rng.choice(BOUNDARIES)
    return (length % (1 << 64)).to_bytes(8, "little") + header + data[8 + n_bytes :]


@lru_cache(maxsize=64)
def instructions(data: bytes) -> tuple[bytes, ...]:
    """The instructions of a pickle, each with its argument, as far as there are any."""
    starts: list[int] = []
    try:
        for _, _, position in pickletools.genops(data):
            starts.append(position or 0)
    # Whatever bytes can spell: what was walked until then counts.
    except Exception:
        pass
    ends = [*starts, len(data)][1:]
    return tuple(data[start:stop] for start, stop in zip(starts, ends, strict=True))


ARGUMENTLESS = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes if not opcode.arg]
EXTRA_INSTRUCTIONS = (
    *ARGUMENTLESS,
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"(S'x'\nios\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93",
    pickle.BINUNICODE + struct.pack("<I", 1 << 30),
    pickle.BINUNICODE8 + struct.pack("<Q", 1 << 62),
    pickle.LONG1 + b"\x08" + b"\xff" * 7 + b"\x7f",
    pickle.LONG1 + b"\xff" + b"\x7f" * 255,
    pickle.BININT + b"\xff\xff\xff\xff",
    pickle.LONG_BINPUT + b"\xff\xff\xff\x7f",
    pickle.BINFLOAT + b"\x7f\xf8" + bytes(6),
    b"\x82\x01",
    b"Px\n",
    b"I" + b"9" * 5000 + b"\n",
    b"h\x00\x86\x94h\x01\x86\x94",
)


def change_instructions(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One instruction more, less, elsewhere, or out of another program."""
    program = list(instructions(data))
    if not program:
        return data
    at = rng.randrange(len(program))
    action = rng.randrange(6)
    if action == 0:
        del program[at]
    elif action == 1:
        program.insert(at, rng.choice(EXTRA_INSTRUCTIONS))
    elif action == 2:
        program[at] = rng.choice(EXTRA_INSTRUCTIONS)
    elif action == 3:
        to = rng.randrange(len(program))
        program[at], program[to] = program[to], program[at]
    elif action == 4:
        program[at:at] = [program[at]] * rng.choice([1, 2, 1000])
    else:
        other = instructions(rng.choice(others))
        start = rng.randrange(len(other) or 1)
        program[at:at] = other[start : start + rng.randint(1, 8)]
    return b"".join(program)


def set_argument(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Another number after an instruction that takes one."""
    del others
    program = list(instructions(data))
    numbers = [i for i, part in enumerate(program) if part[:1] in b"KMJ\x8aqrhj" and len(part) > 1]
    if not numbers:
        return data
    at = rng.choice(numbers)
    code = program[at][:1]
    if code in b"KMJ":
        n_bytes = rng.choice([1, 8, 9])
        new = pickle.LONG1 + bytes([n_bytes]) + boundary(rng, n_bytes)
        program[at] = rng.choice([new, pickle.BININT + boundary(rng, 4)])
    else:
        program[at] = code + boundary(rng, len(program[at]) - 1)
    return b"".join(program)


def inside_zip(change: Change) -> Change:
    """A change of the pickle in a `.pth`, whose zip directory tells the truth about it."""

    def changed(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        import io
        import zipfile

        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = {info.filename: archive.read(info) for info in archive.infolist()}
        # The file may be damaged in every way by now.
        except Exception:
            return data
        others_pickles = [other for other in others if other[:1] == b"\x80"] or [b"."]
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in members.items():
                is_pickle = name.endswith("data.pkl")
                new = change(rng, content, others_pickles) if is_pickle else content
                archive.writestr(zipfile.ZipInfo(name), new)
        return out.getvalue()

    changed.__name__ = f"{change.__name__}_in_zip"
    return changed


def set_zip_number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Something in a header, the directory or the end record of a zip file."""
    del others
    signature, n_bytes = rng.choice([(b"PK\x03\x04", 30), (b"PK\x01\x02", 46), (b"PK\x05\x06", 22)])
    places = []
    at = data.find(signature)
    while at >= 0 and len(places) < 200:
        places.append(at)
        at = data.find(signature, at + 4)
    if not places:
        return data
    width = rng.choice([2, 4, 4])
    at = rng.choice(places) + 4 + 2 * rng.randrange((n_bytes - 4 - width) // 2 + 1)
    return replaced(data, at, width, boundary(rng, width, len(data)))


def change_protobuf(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One field of a sentencepiece model more, less, or with other contents."""
    del others
    fields = protobuf_fields(data)
    if not fields:
        return data
    # Settings come last, and are few.
    at = (
        rng.randrange(len(fields))
        if rng.random() < 0.5
        else -1 - rng.randrange(min(4, len(fields)))
    )
    action = rng.randrange(5)
    head, payload = fields[at]
    if action == 0:
        del fields[at]
    elif action == 1:
        fields.insert(at, rng.choice(fields))
    elif action == 2:
        fields[at] = (bytes([rng.randrange(256)]), payload)
    else:
        inner = protobuf_fields(payload) if action == 3 else None
        if inner:
            i = rng.randrange(len(inner))
            number = rng.choice(BOUNDARIES) % (1 << 64)
            inner[i] = rng.choice(
                [(inner[i][0], boundary(rng, 4)), (bytes([rng.randrange(256)]), inner[i][1])]
            )
            extra = bytes([rng.randrange(1, 50) << 3 & 0xFF]) + varint(number)
            payload = joined(inner) + rng.choice([b"", extra])
        else:
            payload = replaced(payload, rng.randrange(len(payload) + 1), 1, rng.randbytes(2))
        fields[at] = (head, payload)
    return joined(fields)


def protobuf_fields(data: bytes) -> list[tuple[bytes, bytes]]:
    """Tag and payload of each field with a length, as far as there are any; others as they are."""
    found = []
    position = 0
    while position < len(data):
        tag = data[position : position + 1]
        if tag[0] & 7 == 2 and not tag[0] & 0x80:
            length = shift = 0
            end = position + 1
            while end < len(data):
                length |= (data[end] & 0x7F) << shift
                shift += 7
                end += 1
                if data[end - 1] < 0x80:
                    break
            found.append((tag, data[end : end + length]))
            position = end + length
        else:
            found.append((b"", data[position : position + 5]))
            position += 5
    return found


def joined(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        tag + varint(len(payload)) + payload if tag else payload for tag, payload in fields
    )


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def change_line(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A line of a vocabulary more, less, elsewhere, or with an odd text."""
    del others
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    action: Callable[[], object] = rng.choice(
        [
            lambda: lines.pop(at),
            lambda: lines.insert(at, rng.choice(lines)),
            lambda: lines.__setitem__(at, b"%d %s %d" % (at + 1, rng.choice(LITERALS), 1)),
            lambda: lines.__setitem__(at, lines[at].replace(b"'", rng.choice(LITERALS))),
        ]
    )
    action()
    return b"\n".join(lines)


LITERALS = (
    b"'\\ud800'", b"'\\N{DIGIT ONE}'", b"'a' 'b'", b"f'{1}'", b"'' + ''", b"'" + b"(" * 300 + b"'",
    b"'a'" + b"-" * 5000 + b"'a'", b"'\\x'", b"b'\xff'", b"''", b"'\x1b[2J'", b"'\\777'", b"'\x00'",
    b"'a' if [x for x in ()] else 'b'", b"'a'" + b" 'a'" * 2000, b"'" + b"\\" * 4001 + b"'",
)  # fmt: skip

GGUF: tuple[Change, ...] = (set_gguf_number, copy_gguf_number)
JSON: tuple[Change, ...] = (*[set_json] * 5, nest_json)
SAFETENSORS: tuple[Change, ...] = (set_safetensors_header,)
PICKLE: tuple[Change, ...] = (change_instructions, set_argument)
PTH: tuple[Change, ...] = (*map(inside_zip, PICKLE), set_zip_number, *PICKLE)
PROTOBUF: tuple[Change, ...] = (change_protobuf,)
LINES: tuple[Change, ...] = (change_line,)
