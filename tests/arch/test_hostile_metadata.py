"""Each key that a model is read by, with a value of each type that GGUF has: never a crash."""

import contextlib
import os
import struct
import tracemalloc
from pathlib import Path

import pytest

from rwkv_edge import FormatError, Model, RwkvEdgeError
from rwkv_edge.arch import ARCHITECTURES
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.model_file import ModelFile

VERSIONS = {"4": None, "5.2": None, "6": (8, 8), "7": (8, 8, 8, 8), "7a": (8, 8, 8, 8)}
# Keys beside those of the architecture; the last are for other programs, or for messages alone.
KEYS = (
    "general.architecture",
    "general.alignment",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.huggingface.json",
    "rwkv_edge.tokenizer",
    "rwkv_edge.tokenizer.sentencepiece",
    "tokenizer.chat_template",
    "general.name",
    "general.file_type",
)
STRING, ARRAY = 8, 9


def text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def values() -> dict[str, bytes]:
    """A type and a value of it, as bytes of a file: every scalar, and arrays of every one."""
    scalars = {
        0: [b"\0", b"\xff"], 1: [b"\x80"], 2: [b"\xff\xff"], 3: [b"\x00\x80"],
        4: [bytes(4), b"\xff" * 4], 5: [struct.pack("<i", -1), struct.pack("<i", -(1 << 31))],
        6: [struct.pack("<f", float("nan")), struct.pack("<f", 64.0)], 7: [b"\0", b"\1", b"\2"],
        STRING: [text(b""), text(b"x\n\x1b[2J"), text(b"7" * 100_000)],
        10: [bytes(8), b"\xff" * 8], 11: [struct.pack("<q", -1)],
        12: [struct.pack("<d", float("inf"))],
    }  # fmt: skip
    found = {}
    for kind, examples in scalars.items():
        for number, value in enumerate(examples):
            found[f"{kind}-{number}"] = struct.pack("<I", kind) + value
            array = struct.pack("<IIQ", ARRAY, kind, 3) + value * 3
            found[f"array-{kind}-{number}"] = array
        found[f"empty-array-{kind}"] = struct.pack("<IIQ", ARRAY, kind, 0)
    return found


VALUES = values()


@pytest.fixture(scope="module", params=list(VERSIONS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    version = str(request.param)
    folder = tmp_path_factory.mktemp("m")
    hp = synthetic_hyperparameters(
        1, 32, version=version, n_ffn=64, n_vocab=256, head_size=16, ranks=VERSIONS[version]
    )
    write_synthetic(folder / "m.pth", hp)
    convert(folder / "m.pth", folder / "m.gguf", "Q8_0")
    return folder / "m.gguf"


def with_key(content: bytes, name: str, value: bytes) -> bytes:
    """A GGUF of alignment 32 whose key has another type and value, or one key more."""
    (n_keys,) = struct.unpack_from("<Q", content, 16)
    positions = key_positions(content, n_keys)
    end_of_header = positions.pop("")[0]
    entry = text(name.encode()) + value
    if name in positions:
        start, stop = positions[name]
        changed = content[:start] + entry + content[stop:]
        n_moved = len(entry) - (stop - start)
    else:
        start = max((stop for _, stop in positions.values()), default=24)
        changed = content[:16] + struct.pack("<Q", n_keys + 1) + content[24:start] + entry
        changed += content[start:]
        n_moved = len(entry)
    # The tensors' bytes begin at the next multiple of 32 after the header.
    data = content[-(-end_of_header // 32) * 32 :]
    header = changed[: end_of_header + n_moved]
    return header + bytes(-len(header) % 32) + data


def key_positions(content: bytes, n_keys: int) -> dict[str, tuple[int, int]]:
    """Where each key's entry begins and ends; under "", where the header ends."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    position = 24

    def number(code: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + code, content, position)
        position += struct.calcsize("<" + code)
        return int(value)

    def skip(kind: int) -> None:
        nonlocal position
        n_bytes = number("Q") if kind == STRING else sizes[kind]
        position += n_bytes

    found = {}
    for _ in range(n_keys):
        start = position
        n_bytes = number("Q")
        name = content[position : position + n_bytes].decode()
        position += n_bytes
        kind = number("I")
        if kind == ARRAY:
            item, n_items = number("I"), number("Q")
            for _ in range(n_items):
                skip(item)
        else:
            skip(kind)
        found[name] = (start, position)
    (n_tensors,) = struct.unpack_from("<Q", content, 8)
    for _ in range(n_tensors):
        skip(STRING)
        n_dims = number("I")
        position += 8 * n_dims + 12
    return found | {"": (position, position)}


def test_a_value_of_any_type_is_refused_in_one_line_or_harmless(
    whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = whole.read_bytes()
    with GgufFile(whole) as file:
        own = [key for key in file.metadata if key.partition(".")[0] in ARCHITECTURES]
    # A dull name: pytest's own holds the test's, with what messages must not hold.
    path = tmp_path_factory.mktemp("h") / "m.gguf"
    n_refused = n_opened = 0
    for name in (*KEYS, *own):
        for kind, value in VALUES.items():
            path.write_bytes(with_key(content, name, value))
            said = what_opening_says(path)
            if said is None:
                n_opened += 1
                continue
            n_refused += 1
            assert said.startswith(f"{path}: "), (name, kind)
            assert said.isprintable(), (name, kind)
            assert len(said) < len(str(path)) + 400, (name, kind)
    assert n_refused > len(own) * len(VALUES) // 3
    assert n_opened > 3 * len(VALUES)


def what_opening_says(path: Path) -> str | None:
    """The error of a model that is refused, None for one that is not."""
    try:
        with contextlib.closing(ModelFile(path)) as model:
            assert model.tokenizer.n_vocab == 256
            assert model.fingerprint
            assert isinstance(model.chat_template, str)
    except RwkvEdgeError as error:
        return str(error)
    return None


def test_what_this_test_forges_is_read_where_it_is_true(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with GgufFile(whole) as file:
        layers = next(key for key in file.metadata if key.endswith("block_count"))
    path.write_bytes(with_key(whole.read_bytes(), layers, struct.pack("<II", 4, 1)))
    assert path.read_bytes() == whole.read_bytes()
    for value in (struct.pack("<IB", 0, 1), struct.pack("<Iq", 11, 1)):
        path.write_bytes(with_key(whole.read_bytes(), layers, value))
        with (
            contextlib.closing(ModelFile(path)) as model,
            contextlib.closing(ModelFile(whole)) as w,
        ):
            assert model.hyperparameters == w.hyperparameters
            assert model.fingerprint == w.fingerprint


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_name_of_any_type_is_shown_as_a_text(
    words_gguf: Path, tmp_path: Path, value: bytes
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(with_key(words_gguf.read_bytes(), "general.name", value))
    with Model.load(path, "reference") as model:
        assert isinstance(model.info.name, str)
        assert model.info.name == "m" or not value.startswith(struct.pack("<I", ARRAY))


@pytest.mark.parametrize("n_bytes", [1 << 30, (1 << 32) + 5])
@pytest.mark.parametrize("place", ["key", "value", "item", "array"])
def test_a_text_or_list_that_really_has_a_gigabyte_is_not_read(
    tmp_path: Path, n_bytes: int, place: str
) -> None:
    """The file is as large as it says: a hole, which takes no disk."""
    long = struct.pack("<Q", n_bytes)
    begin = {
        "key": long,
        "value": text(b"a") + struct.pack("<I", STRING) + long,
        "item": text(b"a") + struct.pack("<IIQ", ARRAY, STRING, 1) + long,
        "array": text(b"a") + struct.pack("<IIQ", ARRAY, 0, n_bytes),
    }[place]
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + begin)
    os.truncate(path, path.stat().st_size + n_bytes + 100)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"header is larger than any model's|at most"):
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(os.name == "nt", reason="links and pipes in the file system are POSIX")
def test_links_are_followed_and_pipes_are_not_waited_for(whole: Path, tmp_path: Path) -> None:
    link, loop, pipe = tmp_path / "link.gguf", tmp_path / "loop.gguf", tmp_path / "pipe.gguf"
    link.symlink_to(whole)
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    ModelFile(link).close()
    with pytest.raises(OSError, match="symbolic links"):
        ModelFile(loop)
    with pytest.raises(FormatError, match="not a regular file"):
        ModelFile(pipe)
    link.unlink()
    link.symlink_to(pipe)
    with pytest.raises(FormatError, match="not a regular file"):
        ModelFile(link)
