"""The GGUF reader: what gguf-py writes is read equal, and forged files are refused cheaply."""

import contextlib
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwkv_edge.errors import FormatError, RwkvEdgeError, UnsupportedModelError
from rwkv_edge.gguf_reader import (
    LONG_TEXT_BYTES,
    MAX_HEADER_BYTES,
    MAX_KEYS,
    MAX_TENSORS,
    MAX_TEXTS,
    GgufFile,
    UnreadTensor,
)
from rwkv_edge.model_file import ModelFile
from rwkv_edge.quant import QUANT_FORMATS

UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9
F32, Q8_0 = 0, 8
# A row of every format: whole super-blocks.
N_COLUMNS = 256
READ_TYPES = {quant.ggml_type for quant in QUANT_FORMATS.values()}
# What opening a small forged file may allocate: Python's own objects and the message.
SMALL_BYTES = 200_000


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dull name: pytest's own holds the test's, which a `match` would find."""
    return tmp_path_factory.mktemp("g")


def text(raw: str | bytes) -> bytes:
    data = raw.encode() if isinstance(raw, str) else raw
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def info(name: str | bytes, dims: list[int], kind: int = F32, offset: int = 0) -> bytes:
    """dims as in the file: the contiguous one first."""
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def header(
    keys: list[bytes],
    infos: list[bytes],
    *,
    n_keys: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    counts = len(infos) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys
    return b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"".join(keys) + b"".join(infos)


def with_data(head: bytes, data: bytes, alignment: int = 32) -> bytes:
    return head + bytes(-len(head) % alignment) + data


def refused(
    path: Path, content: bytes, error: type[RwkvEdgeError] = FormatError, match: str = ""
) -> str:
    """Open it; it must be refused in one line that names the file, without much memory."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(error, match=match) as caught:
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < SMALL_BYTES + 10 * len(content)
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "forged.gguf"


def written_by_gguf_py(path: Path, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    """A file with every value type, and a tensor of each format; gives the tensors' raw rows."""
    writer = gguf.GGUFWriter(path, "rwkv7", **options)
    writer.add_uint8("n.u8", 200)
    writer.add_int8("n.i8", -100)
    writer.add_uint16("n.u16", 60_000)
    writer.add_int16("n.i16", -30_000)
    writer.add_uint32("n.u32", 1 << 31)
    writer.add_int32("n.i32", -(1 << 31))
    writer.add_uint64("n.u64", 1 << 63)
    writer.add_int64("n.i64", -(1 << 63))
    writer.add_float32("n.f32", 0.5)
    writer.add_float64("n.f64", 0.1)
    writer.add_bool("n.yes", True)
    writer.add_bool("n.no", False)
    writer.add_string("n.text", "größer\n天地")
    writer.add_array("a.texts", ["", "a", "天"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, -0.25])
    writer.add_array("a.bools", [True, False, True])
    random = np.random.default_rng(1)
    rows: dict[str, np.ndarray[Any, Any]] = {}
    for name, quant in QUANT_FORMATS.items():
        kind = gguf.GGMLQuantizationType(quant.ggml_type)
        # gguf-py encodes some formats alone. Of bytes below 124 every float16 is finite.
        shape = (3, 5, quant.row_bytes(N_COLUMNS))
        rows[name] = random.integers(0, 124, shape, np.uint8)
        writer.add_tensor(name, rows[name], raw_dtype=kind)
    writer.add_tensor("one", np.array([7.0], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rows


def test_values_of_every_type_are_read_as_gguf_py_wrote_them(path: Path) -> None:
    written_by_gguf_py(path)
    with GgufFile(path) as file:
        found: dict[str, Any] = file.metadata
        scalars = {name: value for name, value in found.items() if name.startswith("n.")}
        assert scalars == {
            "n.u8": 200, "n.i8": -100, "n.u16": 60_000, "n.i16": -30_000, "n.u32": 1 << 31,
            "n.i32": -(1 << 31), "n.u64": 1 << 63, "n.i64": -(1 << 63), "n.f32": 0.5, "n.f64": 0.1,
            "n.yes": True, "n.no": False, "n.text": "größer\n天地",
        }  # fmt: skip
        assert found["n.yes"] is True
        assert found["general.architecture"] == "rwkv7"
        assert found["a.texts"] == [b"", b"a", "天".encode()]
        assert found["a.ints"].tolist() == [1, -2, 3]
        assert found["a.floats"].tolist() == [0.5, -0.25]
        assert found["a.bools"].tolist() == [True, False, True]


def test_tensors_of_every_format_are_read_and_decoded_as_gguf_py_does(path: Path) -> None:
    rows = written_by_gguf_py(path)
    with GgufFile(path) as file:
        assert set(file.tensors) == {*QUANT_FORMATS, "one"}
        for name, quant in QUANT_FORMATS.items():
            tensor = file.tensors[name]
            shape = (3, 5, N_COLUMNS)
            assert (tensor.name, tensor.shape, tensor.quant_format) == (name, shape, quant)
            assert tensor.raw.tobytes() == rows[name].tobytes()
            kind = gguf.GGMLQuantizationType(quant.ggml_type)
            wanted = gguf.dequantize(rows[name].reshape(15, -1), kind).reshape(shape)
            assert np.array_equal(tensor.decode(), wanted)
        assert file.tensors["one"].decode().tolist() == [7.0]
        del tensor


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_other_alignments_are_honoured(path: Path, alignment: int) -> None:
    writer = gguf.GGUFWriter(path, "rwkv7")
    writer.add_custom_alignment(alignment)
    for value in (1.0, 2.0):
        writer.add_tensor(f"t{value}", np.full((2, 32), value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufFile(path) as file:
        assert (file.tensors["t1.0"].decode() == 1).all()
        assert (file.tensors["t2.0"].decode() == 2).all()


def test_version_2_is_read_as_version_3(path: Path) -> None:
    rows = written_by_gguf_py(path)
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", 2)
    path.write_bytes(content)
    with GgufFile(path) as file:
        assert file.tensors["Q4_0"].raw.tobytes() == rows["Q4_0"].tobytes()


def test_tensors_are_views_of_the_file_not_copies(path: Path) -> None:
    head = header([], [info("t", [1 << 22])])
    path.write_bytes(with_data(head, bytes(4 << 22)))
    tracemalloc.start()
    try:
        with GgufFile(path) as file:
            assert file.tensors["t"].raw.nbytes == 4 << 22
            assert tracemalloc.get_traced_memory()[1] < SMALL_BYTES
    finally:
        tracemalloc.stop()


def test_closing_twice_and_with_views_alive_is_harmless(path: Path) -> None:
    written_by_gguf_py(path)
    file = GgufFile(path)
    raw = file.tensors["F32"].raw
    before = raw.tobytes()
    file.close()
    file.close()
    assert raw.tobytes() == before


@pytest.mark.parametrize("n_tensors", [1 << 62, (1 << 64) - 1, 1 << 40, 10**6, 2])
def test_a_huge_tensor_count_is_refused(path: Path, n_tensors: int) -> None:
    refused(path, header([], [info("t", [8])], n_tensors=n_tensors), match="more than fit|ends")


@pytest.mark.parametrize("n_keys", [1 << 62, (1 << 64) - 1, 1 << 40, 10**6, 2])
def test_a_huge_key_count_is_refused(path: Path, n_keys: int) -> None:
    keys = [key("a", UINT32, struct.pack("<I", 1))]
    refused(path, header(keys, [], n_keys=n_keys), match="more than fit|ends")


@pytest.mark.parametrize("n_bytes", [1 << 60, (1 << 64) - 1, 1 << 32, 1000])
@pytest.mark.parametrize("place", ["key", "value", "item", "tensor name"])
def test_a_string_longer_than_the_file_is_refused(path: Path, n_bytes: int, place: str) -> None:
    long = struct.pack("<Q", n_bytes) + b"abc" + bytes(60)
    if place == "tensor name":
        content = header([], [long], n_tensors=1)
    else:
        array = struct.pack("<IQ", STRING, 1)
        content = {
            "key": header([long], []),
            "value": header([key("a", STRING, long)], []),
            "item": header([key("a", ARRAY, array + long)], []),
        }[place]
    refused(path, content, match="ends inside its header")


@pytest.mark.parametrize("item", [*range(8), STRING, 10, 11, 12])
@pytest.mark.parametrize("n_items", [1 << 60, 1 << 61, 1 << 63, (1 << 64) - 1, 1 << 33])
def test_an_array_count_that_would_overflow_is_refused(path: Path, item: int, n_items: int) -> None:
    array = struct.pack("<IQ", item, n_items) + bytes(64)
    refused(path, header([key("a", ARRAY, array)], []), match="more than fit")


def test_nested_arrays_are_refused_however_deep(path: Path) -> None:
    nested = struct.pack("<IQ", ARRAY, 1) * 100_000
    refused(path, header([key("a", ARRAY, nested)], []), match="nests metadata arrays")


@pytest.mark.parametrize("kind", [13, 255, 1 << 31])
def test_an_unknown_metadata_type_is_refused(path: Path, kind: int) -> None:
    refused(path, header([key("a", kind, bytes(64))], []), match=f"type {kind} does not exist")
    array = struct.pack("<IQ", kind, 1) + bytes(64)
    refused(path, header([key("a", ARRAY, array)], []), match=f"type {kind} does not exist")


@pytest.mark.parametrize(
    "dims",
    [
        [1 << 62, 4],
        [1 << 62, 1 << 62],
        [1 << 32, 1 << 32],
        [1 << 63, 2, 1, 1],
        [(1 << 64) - 1],
        [1 << 16] * 4,
        [3, 0xAAAAAAAAAAAAAAAB],
    ],
)
def test_dimensions_whose_product_wraps_are_refused(path: Path, dims: list[int]) -> None:
    for kind in (F32, Q8_0):
        content = with_data(header([], [info("t", dims, kind)]), bytes(4096))
        refused(path, content, match="cannot fit in the file")


@pytest.mark.parametrize("dims", [[0], [0, 32], [32, 0], [0, 0, 0, 0]])
def test_a_zero_dimension_is_refused(path: Path, dims: list[int]) -> None:
    refused(path, with_data(header([], [info("t", dims)]), bytes(64)), match="cannot fit")


@pytest.mark.parametrize("n_dims", [0, 5, 1000, (1 << 32) - 1])
def test_too_few_and_too_many_dimensions_are_refused(path: Path, n_dims: int) -> None:
    forged = text("t") + struct.pack("<I", n_dims) + struct.pack("<5Q", 1, 1, 1, 1, 1) + bytes(99)
    refused(path, header([], [forged], n_tensors=1), match=f"t has {n_dims} dimensions")


@pytest.mark.parametrize("offset", [64, 1 << 20, 1 << 62, 1 << 63, (1 << 64) - 32])
def test_an_offset_past_the_end_is_refused(path: Path, offset: int) -> None:
    content = with_data(header([], [info("t", [16], offset=offset)]), bytes(64))
    refused(path, content, match=r"t holds 0 bytes; F32 \[16\] needs 64")


def test_a_misaligned_tensor_is_refused(path: Path) -> None:
    content = with_data(header([], [info("t", [4], offset=4)]), bytes(64))
    refused(path, content, match="t is misaligned")


def test_overlapping_tensors_are_refused(path: Path) -> None:
    for second in (0, 32):
        infos = [info("a", [16]), info("b", [16], offset=second)]
        refused(path, with_data(header([], infos), bytes(256)), match="overlaps another tensor")


def test_a_duplicate_tensor_name_is_refused(path: Path) -> None:
    infos = [info("t", [8]), info("t", [8], offset=32)]
    refused(path, with_data(header([], infos), bytes(64)), match="the tensor t twice")


def test_a_duplicate_key_is_refused(path: Path) -> None:
    keys = [key("a", UINT32, struct.pack("<I", n)) for n in (1, 2)]
    refused(path, header(keys, []), match="the key a twice")


@pytest.mark.parametrize("alignment", [0, 3, 48, 1 << 17, 1 << 30, (1 << 32) - 1])
def test_an_alignment_that_is_no_sensible_power_of_two_is_refused(
    path: Path, alignment: int
) -> None:
    keys = [key("general.alignment", UINT32, struct.pack("<I", alignment))]
    content = with_data(header(keys, [info("t", [8])]), bytes(64))
    refused(path, content, match=f"alignment {alignment} is not a power of two")


def test_an_alignment_that_is_no_number_is_refused(path: Path) -> None:
    many = struct.pack("<IQ", UINT8, 3000) + bytes(range(250)) * 12
    for value in (key("general.alignment", STRING, text("32\n" * 99)),
                  key("general.alignment", ARRAY, many)):  # fmt: skip
        content = with_data(header([value], [info("t", [8])]), bytes(64))
        refused(path, content, match="is not a power of two")


def test_big_endian_files_are_named_as_such(path: Path) -> None:
    refused(path, b"FUGG" + bytes(64), match="big-endian")
    # What gguf-py writes for such machines has the usual magic.
    writer = gguf.GGUFWriter(path, "rwkv7", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    refused(path, path.read_bytes(), match="big-endian")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(99), "run rwkv-edge convert on it first"),
        (b"GGU", "not a GGUF file"),
        (b"<html>", "not a GGUF file"),
        (b"\x08\x0a\x12\x09rwkv-edge", "seems to be an ONNX; wanted the GGUF of the same model"),
        (b"\x08\x0a", "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(64), "GGUF version 1 is not"),
        (b"GGUF" + struct.pack("<I", 4) + bytes(64), "GGUF version 4 is not"),
    ],
)
def test_other_files_are_named_for_what_they_are(path: Path, content: bytes, match: str) -> None:
    refused(path, content, match=match)


def test_a_file_cut_off_at_any_byte_is_refused(path: Path) -> None:
    written_by_gguf_py(path)
    whole = path.read_bytes()
    with GgufFile(path) as file:
        sizes = sum(-(-tensor.raw.nbytes // 32) * 32 for tensor in file.tensors.values())
    n_header = len(whole) - sizes
    assert 500 < n_header < 5000
    data_cuts = [n_header, n_header + 1, n_header + 100, len(whole) // 2, len(whole) - 32]
    # Every tensor needs all its bytes; what follows the last one is padding.
    last_byte_of_data = len(whole) - (32 - 4) - 1
    for n_bytes in [*range(n_header), *data_cuts, last_byte_of_data]:
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(FormatError) as caught:
            GgufFile(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()
    path.write_bytes(whole[: last_byte_of_data + 1])
    GgufFile(path).close()


@pytest.mark.parametrize("name", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_names_that_are_not_utf8_are_refused(path: Path, name: bytes) -> None:
    refused(path, header([key(name, UINT32, bytes(4))], []), match="key is not valid UTF-8")
    refused(path, header([key("a", STRING, text(name))], []), match="string is not valid UTF-8")
    content = with_data(header([], [info(name, [8])]), bytes(32))
    refused(path, content, match="tensor name is not valid UTF-8")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J\x1b[31m", "x" * 50_000, "\u202egnp.exe", "\x00"])
def test_names_cannot_break_the_line_or_the_terminal(path: Path, name: str) -> None:
    refused(path, with_data(header([], [info(name, [8])] * 2), bytes(64)), match="twice|overlaps")
    refused(path, with_data(header([], [info(name, [9])]), bytes(32)), match="holds 32 bytes")
    refused(path, with_data(header([], [info(name, [0])]), bytes(32)), match="cannot fit")
    refused(path, header([key(name, UINT32, bytes(4))] * 2, []), match="twice")
    unknown = with_data(header([], [info(name, [8], kind=999)]), bytes(32))
    refused(path, unknown, UnsupportedModelError, match="type 999")


@pytest.mark.parametrize(
    ("kind", "name"), [(999, "type 999"), (16, "IQ2_XXS"), ((1 << 32) - 1, "")]
)
def test_an_unknown_weight_type_is_unsupported(path: Path, kind: int, name: str) -> None:
    content = with_data(header([], [info("t", [32], kind)]), bytes(256))
    refused(path, content, UnsupportedModelError, match=f"t is stored as {name or 'type'}")


def test_a_row_that_is_not_whole_blocks_is_refused(path: Path) -> None:
    content = with_data(header([], [info("t", [33], Q8_0)]), bytes(256))
    refused(path, content, match="t: Q8_0 needs rows of a multiple of 32, not 33")


def test_many_small_texts_cost_in_proportion_to_the_file(path: Path) -> None:
    n = 200_000
    array = struct.pack("<IQ", STRING, n) + text(b"ab") * n
    path.write_bytes(header([key("a", ARRAY, array)], []))
    tracemalloc.start()
    try:
        with GgufFile(path) as file:
            assert len(file.metadata["a"]) == n  # type: ignore[arg-type]
            assert tracemalloc.get_traced_memory()[1] < 10 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        GgufFile(tmp_path / "no.gguf")
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
        GgufFile(tmp_path)


@pytest.fixture(scope="module")
def open_mutated(
    tmp_path_factory: pytest.TempPathFactory, q4_gguf: Path
) -> Callable[[list[tuple[int, int]], int | None], None]:
    """Opens a small model whose bytes were changed and which was cut: it loads, or is refused."""
    path = tmp_path_factory.mktemp("fuzz") / "m.gguf"
    whole = q4_gguf.read_bytes()
    # The header of a model over bytes is short; its tensors make up most of the file.
    with GgufFile(q4_gguf) as file:
        n_data = sum(tensor.raw.nbytes for tensor in file.tensors.values())
    n_header = len(whole) - n_data

    def open_mutated(changes: list[tuple[int, int]], cut: int | None) -> None:
        content = bytearray(whole)
        for position, value in changes:
            content[position % n_header] = value
        path.write_bytes(content if cut is None else content[: cut % len(content)])
        messages: list[str] = []
        try:
            file = ModelFile(path)
        except RwkvEdgeError as error:
            messages.append(str(error))
        else:
            with contextlib.closing(file):
                assert file.fingerprint
                assert file.file_type in QUANT_FORMATS
                try:
                    assert file.tokenizer.n_vocab == file.hyperparameters.n_vocab
                except RwkvEdgeError as error:
                    messages.append(str(error))
        for message in messages:
            assert message.startswith(f"{path}: ")
            assert message.isprintable()

    return open_mutated


@settings(
    max_examples=2500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 1 << 14),
            st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 8, 9, 0x7F, 0x80, 0xFF])),
        ),
        min_size=1,
        max_size=8,
    ),
    cut=st.one_of(st.none(), st.none(), st.integers(0, 1 << 20)),
)
def test_no_mutation_of_a_model_does_worse_than_being_refused(
    open_mutated: Callable[[list[tuple[int, int]], int | None], None],
    changes: list[tuple[int, int]],
    cut: int | None,
) -> None:
    open_mutated(changes, cut)


def test_a_refused_file_is_unmapped_at_once(path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the maps of a process can be read on Linux alone")
    path.write_bytes(header([key("a", 99, bytes(64))], []))
    errors: list[FormatError] = []
    with pytest.raises(FormatError) as caught:
        GgufFile(path)
    # Kept, as a log or a debugger would: its traceback holds the frames.
    errors.append(caught.value)
    assert not re.search(re.escape(path.name), maps.read_text())


@pytest.mark.parametrize("kind", [t for t in gguf.GGMLQuantizationType if t not in READ_TYPES])
def test_types_that_are_not_read_are_listed_on_demand_with_ggmls_size(
    tmp_path: Path, kind: gguf.GGMLQuantizationType
) -> None:
    path = tmp_path / "m.gguf"
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    data = bytes(3 * 2 * block_bytes)
    shape = [2 * block_len, 3]
    path.write_bytes(with_data(header([], [info("t", shape, kind)]), data))
    with pytest.raises(UnsupportedModelError):
        GgufFile(path)
    with GgufFile(path, any_type=True) as file:
        assert file.tensors == {}
        assert file.unread == {"t": UnreadTensor("t", (3, 2 * block_len), kind.name, len(data))}
    for content, match in (
        (with_data(header([], [info("t", shape, kind)]), data[:-1]), kind.name),
        (with_data(header([], [info("t", shape, kind, 16)]), data * 2), "misaligned"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=match):
            GgufFile(path, any_type=True)


def test_a_type_that_ggml_does_not_know_is_listed_without_a_size(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(with_data(header([], [info("t", [32, 3], 4000)]), bytes(100)))
    with GgufFile(path, any_type=True) as file:
        assert file.unread["t"] == UnreadTensor("t", (3, 32), "type 4000", 0)


def many_keys(n: int) -> bytes:
    return header([key(b"%06d" % i, UINT8, b"\1") for i in range(n)], [])


def many_tensors(n: int) -> bytes:
    infos = [info(b"%06d" % i, [1], offset=32 * i) for i in range(n)]
    return with_data(header([], infos), bytes(32 * n))


def one_list(n: int) -> bytes:
    array = struct.pack("<IQ", STRING, n) + text(b"ab") * n
    return header([key("a", ARRAY, array)], [])


def many_lists(n: int) -> bytes:
    """Each by itself is no longer than a vocabulary."""
    array = struct.pack("<IQ", STRING, n // 8) + text(b"ab") * (n // 8)
    return header([key(b"%d" % i, ARRAY, array) for i in range(8)], [])


@pytest.mark.parametrize(
    ("make", "most", "match"),
    [
        (many_keys, MAX_KEYS, "keys; a model has at most 65,536"),
        (many_tensors, MAX_TENSORS, "tensors; a model has at most 32,768"),
        (one_list, MAX_TEXTS, "strings; a model has at most 1,048,576"),
        (many_lists, MAX_TEXTS, "strings; a model has at most"),
    ],
)
def test_what_is_small_in_a_file_and_large_in_memory_is_bounded(
    path: Path, make: Callable[[int], bytes], most: int, match: str
) -> None:
    """An eighth of what is let through takes an eighth of what it may take, or less."""
    path.write_bytes(make(most // 8))
    tracemalloc.start()
    try:
        GgufFile(path).close()
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + (64 << 20) // 8
    finally:
        tracemalloc.stop()
    path.write_bytes(make(most + 8))
    with pytest.raises(FormatError, match=match):
        GgufFile(path)


def test_a_text_that_grows_in_memory_is_bounded(path: Path) -> None:
    """Python holds four bytes for each letter of a text that has one emoji."""
    for n_bytes, fits in ((MAX_HEADER_BYTES - 100, True), (MAX_HEADER_BYTES, False)):
        content = b"a" * (n_bytes - 4) + "🙂".encode()
        path.write_bytes(header([key("a", STRING, text(content))], []))
        tracemalloc.start()
        try:
            if fits:
                GgufFile(path).close()
            else:
                with pytest.raises(FormatError, match="header is larger than any model's"):
                    GgufFile(path)
            assert tracemalloc.get_traced_memory()[1] < 2 * n_bytes + (64 << 20)
        finally:
            tracemalloc.stop()


def list_of(n_texts: int, n_bytes: int) -> bytes:
    array = struct.pack("<IQ", STRING, n_texts) + text(b"a" * n_bytes) * n_texts
    return header([key("a", ARRAY, array)], [])


def test_long_texts_of_a_list_may_take_more_than_a_header(path: Path) -> None:
    n_texts = MAX_HEADER_BYTES // LONG_TEXT_BYTES + 1
    path.write_bytes(list_of(n_texts, LONG_TEXT_BYTES))
    with GgufFile(path) as file:
        assert file.metadata["a"] == [b"a" * LONG_TEXT_BYTES] * n_texts
    path.write_bytes(list_of(n_texts, LONG_TEXT_BYTES - 1))
    with pytest.raises(FormatError, match="header is larger than any model's"):
        GgufFile(path)


@pytest.mark.parametrize("n_missing", [1, 4, 5, 9, 12, 13])
def test_a_list_that_ends_inside_a_text_or_its_length_is_refused(
    path: Path, n_missing: int
) -> None:
    """Its last text takes 8 bytes for its length, and 4; the empty one before it 8."""
    array = struct.pack("<IQ", STRING, 3) + text(b"a" * 64) + text(b"") + text(b"aaaa")
    whole = header([key("a", ARRAY, array)], [])
    path.write_bytes(whole)
    with GgufFile(path) as file:
        assert file.metadata["a"] == [b"a" * 64, b"", b"aaaa"]
    refused(path, whole[:-n_missing], match="the file ends inside its header")
