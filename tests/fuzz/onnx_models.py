"""ONNX files: those that the fuzzer begins with, how it damages them, and what opens them."""

import contextlib
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from rwkv_edge import FormatError
from rwkv_edge.apps.file_info import describe_file
from rwkv_edge.model_files import open_model_file
from rwkv_edge.onnx_model_file import OnnxModelFile
from rwkv_edge.onnx_reader import OnnxFile
from tests.fuzz.mutations import BOUNDARIES, Change, boundary, replaced
from tests.fuzz.structure import change_json, varint

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
# Of ModelProto: a key and a value.
PROPERTY = 14
# A field as it stands in a message: number, kind, and its bytes or its number.
Part = tuple[int, int, bytes | int]


def onnx_files(to: Path, folder: Path) -> None:
    """Every type and way to say it, as the onnx package writes them; none where it is missing."""
    del folder
    try:
        from tests.onnx_files import written_by_onnx
    except ModuleNotFoundError:
        return
    written_by_onnx(to / "whole.onnx")
    written_by_onnx(to / "apart.onnx", save_as_external_data=True, location="d", size_threshold=9)
    (to / "d").unlink()


def onnx_models(to: Path, folder: Path) -> None:
    """A model of every version, and of every weight type and tokenizer."""
    try:
        from tests.onnx_files import write_onnx
    except ModuleNotFoundError:
        return
    for gguf in sorted((folder / "model").glob("*.gguf")):
        write_onnx(to / f"{gguf.stem}.onnx", gguf)
    write_onnx(to / "apart.onnx", folder / "model" / "words.gguf", data="d")
    (to / "d").unlink()


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "onnx": onnx_files,
    "onnx-model": onnx_models,
}


def open_onnx(path: Path, corpus: Path) -> None:
    """The bare reader: all bytes of every tensor are looked at, as far as it has some."""
    del corpus
    with OnnxFile(path) as file:
        for tensor in file.tensors.values():
            if tensor.offset is not None and tensor.location is None:
                assert tensor.raw.size == tensor.n_bytes
                assert int(np.sum(tensor.raw, dtype=np.int64)) >= 0
            elif tensor.location is not None:
                # No such file is there, whatever it is called.
                with contextlib.suppress(FormatError):
                    raise AssertionError(f"{tensor.location!r} was read: {tensor.raw.size}")
            del tensor
        assert all(str(value) for value in (*file.inputs, *file.outputs))
    describe_file(path)


def open_onnx_model(path: Path, corpus: Path) -> None:
    """A model as `Model.load` and `info` read it; its graph is onnxruntime's business."""
    from tests.fuzz.targets import use_tokenizer

    del corpus
    file = open_model_file(path)
    with closing(file):
        if isinstance(file, OnnxModelFile):
            assert file.fingerprint
            assert file.file_type
            assert file.n_parameters >= file.hyperparameters.n_vocab
            assert file.bytes_per_token <= file.n_bytes
            assert isinstance(file.chat_template, str)
            use_tokenizer(file.tokenizer)
            file.tuned_state()
    describe_file(path)


def parts_of(message: bytes) -> list[Part] | None:
    """The fields of a message; None for bytes that are none."""
    parts: list[Part] = []
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            if position >= len(message) or shift > 63:
                raise EOFError
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while position < len(message):
            tag = number()
            kind = tag & 7
            if kind == VARINT:
                parts.append((tag >> 3, kind, number()))
                continue
            n_bytes = number() if kind == LENGTH else FIXED_BYTES.get(kind, len(message) + 1)
            if n_bytes > len(message) - position or tag >> 3 == 0:
                raise EOFError
            parts.append((tag >> 3, kind, message[position : position + n_bytes]))
            position += n_bytes
    except EOFError:
        return None
    return parts


def joined(parts: Sequence[Part]) -> bytes:
    out = []
    for number, kind, value in parts:
        out.append(varint(number << 3 | kind))
        if isinstance(value, int):
            out.append(varint(value))
        else:
            out += [varint(len(value)), value] if kind == LENGTH else [value]
    return b"".join(out)


def changed_message(rng: random.Random, message: bytes, depth: int) -> bytes:
    """A field of the message more, less, elsewhere or another, or one of a message inside it.

    Whatever contains it tells the truth about its length.
    """
    parts = parts_of(message)
    if not parts:
        return replaced(message, rng.randrange(len(message) + 1), 1, rng.randbytes(2))
    at = rng.randrange(len(parts))
    number, kind, value = parts[at]
    if isinstance(value, bytes) and kind == LENGTH and depth < 6 and rng.random() < 0.75:
        parts[at] = (number, kind, changed_message(rng, value, depth + 1))
        return joined(parts)
    action = rng.randrange(5)
    if action == 0:
        del parts[at]
    elif action == 1:
        parts.insert(rng.randrange(len(parts) + 1), parts[at])
    elif action == 2:
        parts[at] = (rng.randrange(1, 30), kind, value)
    elif action == 3:
        parts[at] = (number, VARINT, rng.choice([*BOUNDARIES, rng.randrange(30)]) % (1 << 64))
    else:
        content = value if isinstance(value, bytes) else b""
        cut = content[: rng.randrange(len(content) + 1)]
        parts[at] = (number, LENGTH, rng.choice([cut, content + b"\0", boundary(rng, 8), b""]))
    return joined(parts)


def change_onnx(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Something inside a model, at any depth."""
    del others
    return changed_message(rng, data, 0) if parts_of(data) else data


def change_onnx_property(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Other JSON in one of the metadata, or a value in the place of another's."""
    del others
    parts = parts_of(data) or []
    places = [i for i, part in enumerate(parts) if part[:2] == (PROPERTY, LENGTH)]
    if not places:
        return data
    at = rng.choice(places)
    entry = parts_of(bytes(parts[at][2])) or []
    values = [i for i, part in enumerate(entry) if part[:2] == (2, LENGTH)]
    if not values:
        return data
    number, kind, value = entry[values[0]]
    if rng.random() < 0.3:
        other = parts_of(bytes(parts[rng.choice(places)][2])) or entry
        entry[values[0]] = (number, kind, bytes(other[-1][2]))
    else:
        # As the only item: `change_json` changes what holds something.
        text = change_json(rng, b"[" + bytes(value) + b"]", rng.randint(1, 3))
        entry[values[0]] = (number, kind, text[1:-1])
    parts[at] = (PROPERTY, LENGTH, joined(entry))
    return joined(parts)


ONNX: tuple[Change, ...] = (change_onnx, change_onnx, change_onnx_property)
