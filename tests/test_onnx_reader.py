"""The ONNX reader: what the onnx package writes is read equal, and forged files refused cheaply."""

import json
import os
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwkv_edge.errors import FormatError
from rwkv_edge.onnx_parts import DATA_TYPES, MAX_DIMENSIONS
from rwkv_edge.onnx_reader import (
    MAX_METADATA_VALUES,
    MAX_TENSORS,
    OnnxFile,
    is_onnx,
    looks_like_onnx,
)
from rwkv_edge.onnx_wire import MAX_FIELDS, MAX_TEXT_BYTES

onnx = pytest.importorskip("onnx")
written_by_onnx = pytest.importorskip("tests.onnx_files").written_by_onnx

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FLOAT, INT64 = 1, 7
# What opening a small forged file may allocate: Python's own objects and the message.
SMALL_BYTES = 200_000


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a folder with a dull name: pytest's own holds the test's, which a `match` would find."""
    return tmp_path_factory.mktemp("o") / "forged.onnx"


def varint(value: int) -> bytes:
    out = bytearray()
    value %= 1 << 64
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def part(number: int, value: int | str | bytes) -> bytes:
    """A field: a number, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | LENGTH) + varint(len(data)) + data


def tensor(
    name: str | bytes = "t", dims: list[int] | None = None, raw: bytes = b"", kind: int = FLOAT
) -> bytes:
    shape = b"".join(part(1, dim) for dim in ([] if dims is None else dims))
    return shape + part(2, kind) + part(8, name) + part(9, raw)


def external(dims: list[int], **entries: str) -> bytes:
    """A tensor of floats in another file."""
    words = b"".join(part(13, part(1, key) + part(2, text)) for key, text in entries.items())
    shape = b"".join(part(1, dim) for dim in dims)
    return shape + part(2, FLOAT) + part(8, "t") + words + part(14, 1)


def model(*initializers: bytes, more: bytes = b"") -> bytes:
    return part(1, 10) + more + part(7, b"".join(part(5, one) for one in initializers))


def prop(key: str | bytes, value: str | bytes) -> bytes:
    return part(14, part(1, key) + part(2, value))


def refused(path: Path, content: bytes, match: str = "") -> str:
    """Open it; it must be refused in one line that names the file, without much memory."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=match) as caught:
            OnnxFile(path)
        assert tracemalloc.get_traced_memory()[1] < SMALL_BYTES + 10 * len(content)
    finally:
        tracemalloc.stop()
    return one_line(path, caught.value)


def one_line(path: Path, error: FormatError) -> str:
    message = str(error)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    return message


def test_what_the_onnx_package_writes_is_read_equal(path: Path) -> None:
    arrays = written_by_onnx(path)
    with OnnxFile(path) as file:
        assert set(file.tensors) == {*arrays, "typed", "texts"}
        for name, array in arrays.items():
            tensor = file.tensors[name]
            assert (tensor.name, tensor.shape, tensor.n_bytes) == (name, array.shape, array.nbytes)
            assert tensor.data_type == onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            assert tensor.raw.tobytes() == array.tobytes()
            assert tensor.location is None
            del tensor
        assert [str(value) for value in file.inputs] == [
            "INT64 [T]", "FLOAT [2, ?, größer]", "FLOAT []", "FLOAT", "type 0",
        ]  # fmt: skip
        assert file.inputs[1].dims == (2, "?", "größer")
        assert [value.name for value in file.outputs] == ["y0"]
        assert file.opsets == {"ai.onnx": 21, "com.microsoft": 1}
        assert (file.n_nodes, file.producer, file.ir_version) == (3, "rwkv-edge 0.9", 9)
        assert file.metadata == {"a": "text", "b": 1}
        assert file.locations == []
        assert file.n_bytes == path.stat().st_size


def test_tensors_in_fields_of_their_own_type_have_a_size_and_no_raw_bytes(path: Path) -> None:
    written_by_onnx(path)
    with OnnxFile(path) as file:
        assert (file.tensors["typed"].shape, file.tensors["typed"].n_bytes) == ((2,), 16)
        assert (file.tensors["texts"].shape, file.tensors["texts"].n_bytes) == ((2,), 0)
        with pytest.raises(FormatError, match="typed is not stored as raw bytes"):
            _ = file.tensors["typed"].raw


def test_every_element_type_of_the_onnx_package_is_known() -> None:
    known = {name: number for number, (name, _) in DATA_TYPES.items()}
    wanted = dict(onnx.TensorProto.DataType.items())
    assert wanted.pop("UNDEFINED") == 0
    assert known.items() >= wanted.items()


def test_external_data_of_the_onnx_package_are_read_where_they_lie(path: Path) -> None:
    arrays = written_by_onnx(
        path, save_as_external_data=True, location="forged.data", size_threshold=100
    )
    with OnnxFile(path) as file:
        assert file.locations == ["forged.data"]
        file.require_external()
        assert file.n_bytes == sum(p.stat().st_size for p in path.parent.iterdir())
        assert file.tensors["float32"].location == "forged.data"
        assert file.tensors["uint8"].location is None
        for name, array in arrays.items():
            assert file.tensors[name].raw.tobytes() == array.tobytes()


@pytest.mark.parametrize("is_packed", [False, True])
def test_dimensions_are_read_packed_or_one_by_one(path: Path, is_packed: bool) -> None:
    dims = part(1, varint(2) + varint(300)) if is_packed else part(1, 2) + part(1, 300)
    path.write_bytes(model(dims + part(2, FLOAT) + part(8, "t") + part(9, bytes(2400))))
    with OnnxFile(path) as file:
        assert file.tensors["t"].shape == (2, 300)


def test_fields_that_nobody_here_knows_are_skipped(path: Path) -> None:
    odd = part(900, 5) + part(901, b"x") + varint(902 << 3 | FIXED32) + bytes(4)
    odd += varint((1 << 29) - 1 << 3 | FIXED64) + bytes(8)
    path.write_bytes(odd + model(tensor("t", [1], bytes(4)) + odd) + odd)
    with OnnxFile(path) as file:
        assert list(file.tensors) == ["t"]


def test_tensors_are_views_of_the_file_not_copies(path: Path) -> None:
    path.write_bytes(model(tensor("t", [1 << 22], bytes(4 << 22))))
    tracemalloc.start()
    try:
        with OnnxFile(path) as file:
            assert file.tensors["t"].raw.nbytes == 4 << 22
            assert tracemalloc.get_traced_memory()[1] < SMALL_BYTES
    finally:
        tracemalloc.stop()


def test_closing_twice_and_with_views_alive_is_harmless(path: Path) -> None:
    written_by_onnx(path)
    file = OnnxFile(path)
    raw = file.tensors["float32"].raw
    before = raw.tobytes()
    file.close()
    file.close()
    assert raw.tobytes() == before


VALUES: dict[str, object] = {
    "1": 1, "-5": -5, "0.5": 0.5, "1e-05": 1e-05, "true": True, '"a\\n\\u00e9"': "a\né", '""': "",
    '["", "a", "天"]': [b"", b"a", "天".encode()], "[]": [], "[true, false]": [True, False],
    "[1, 2, 255]": np.array([1, 2, 255], np.uint8), "[1,-2,300]": np.array([1, -2, 300], np.int32),
    "[0.5, 1]": np.array([0.5, 1.0]), str(1 << 63): 1 << 63, "[18446744073709551615]": [2**64 - 1],
}  # fmt: skip


@pytest.mark.parametrize("text", VALUES)
def test_properties_are_read_as_a_gguf_would_give_them(path: Path, text: str) -> None:
    path.write_bytes(model(more=prop("k", text)))
    wanted = VALUES[text]
    with OnnxFile(path) as file:
        found: Any = file.metadata["k"]
    if isinstance(found, np.ndarray):
        assert np.array_equal(found, wanted)  # type: ignore[arg-type]
        if isinstance(wanted, np.ndarray):
            assert found.dtype == wanted.dtype
    else:
        assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    "text",
    ["", "plain words", "null", "{}", '{"a": 1}', "[[1]]", '["a", 1]', "[null]", "NaN", "[1e999]",
     "Infinity", "[1, NaN]", "[1,,2]", "[1 2]", "[-]", "1e999", str(1 << 64), "[" * 100_000,
     "[" * 500 + "]" * 500, '"\\ud800"', '["\\ud800"]', "9" * 5000, "{0: 'person'}", "[true, 1]",
     "[99999999999999999999999]"],
)  # fmt: skip
def test_a_property_that_no_gguf_could_hold_stays_the_text_that_it_is(
    path: Path, text: str
) -> None:
    path.write_bytes(model(more=prop("k", text)))
    with OnnxFile(path) as file:
        assert file.metadata == {"k": text}


def test_a_long_list_of_numbers_is_read_whole(path: Path) -> None:
    """Longer than what is read of it at once; the last number changes the type of all."""
    numbers = [*(i % 256 for i in range(700_000)), 256]
    path.write_bytes(model(more=prop("k", json.dumps(numbers))))
    with OnnxFile(path) as file:
        found: Any = file.metadata["k"]
        assert found.tolist() == numbers


def test_a_state_of_85_megabytes_is_read_in_twice_its_memory(path: Path) -> None:
    texts = ["QUJD" * (350_000 + i) for i in range(61)]
    path.write_bytes(model(more=prop("rwkv_edge.tuned_state", json.dumps(texts))))
    tracemalloc.start()
    try:
        with OnnxFile(path) as file:
            peak = tracemalloc.get_traced_memory()[1]
            assert file.metadata["rwkv_edge.tuned_state"] == [text.encode() for text in texts]
    finally:
        tracemalloc.stop()
    assert peak < 2.1 * path.stat().st_size


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the file is empty"),
        (b"<html>", "field 7 at byte 0 is of kind 4"),
        (b"GGUF" + bytes(60), "at byte"),
        (part(1, 10), "holds no graph"),
        (part(1, 10) + part(7, b"") * 2, "field 7 of the model twice"),
        (part(1, 10) * 2 + part(7, b""), "field 1 of the model twice"),
        (part(7, 5), "field 7 of the model at byte"),
        (part(7, part(5, 5)), "field 5 of the graph at byte"),
        (b"\x00", "field 0 at byte 0 cannot be"),
        (varint(1 << 29 << 3) + b"\x01", "cannot be"),
        (b"\x0b\x0c" + part(7, b""), "field 1 at byte 0 is of kind 3"),
        (b"\x3c", "is of kind 4"),
        (b"\x3e\x01", "is of kind 6"),
        (b"\x08" + b"\xff" * 30, "a number at byte 1 has no end"),
        (b"\xff" * 30, "a number at byte 0 has no end"),
        (b"\x08", "a number at byte 1 has no end"),
        (b"\x3a" + varint((1 << 64) - 1), "the file ends inside field 7"),
        (b"\x3a" + varint(1 << 31) + bytes(9), "the file ends inside field 7"),
        (varint(900 << 3 | FIXED64) + bytes(7), "the file ends inside field 900"),
        (part(7, b"\x2a\x20") + part(14, bytes(99)), "field 5 at byte 2 is longer than what it is"),
    ],
)
def test_what_is_no_protobuf_or_no_model_is_refused(path: Path, content: bytes, match: str) -> None:
    refused(path, content, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (tensor("t", [3], bytes(11)), r"t holds 11 bytes; FLOAT \[3\] needs 12"),
        (tensor("t", [3], bytes(13)), r"t holds 13 bytes; FLOAT \[3\] needs 12"),
        (tensor("t", [3]), "t holds 0 bytes"),
        (tensor("t", [1 << 62, 4], bytes(16)), "which no file holds"),
        (tensor("t", [1 << 62, 1 << 62], bytes(16)), "which no file holds"),
        (tensor("t", [0, 1 << 63], b""), "which no file holds"),
        (tensor("t", [-1], bytes(4)), r"t is \[-1\], which no file holds"),
        (tensor("t", [-2, -2], bytes(16)), "which no file holds"),
        (tensor("t", [1] * (MAX_DIMENSIONS + 1), bytes(4)), "more than 16 dimensions"),
        (part(1, b"\x01" * 100_000) + tensor("t"), "more than 16 dimensions"),
        (part(1, b"\xff") + tensor("t"), "has no end"),
        (tensor("t", [1 << 40], bytes(4), kind=99), "holds 4 bytes"),
        (part(1, 1 << 40) + part(2, FLOAT) + part(8, "t"), "holds 0 bytes"),
        (part(1, 1 << 40) + part(2, FLOAT) + part(8, "t") + part(4, bytes(8)), "holds 8 bytes"),
        (tensor("", [1], bytes(4)), "a tensor without a name"),
        (tensor("t" * 5000, [1], bytes(4)), "a tensor's name of 5,000 bytes is longer than any"),
        (tensor("t", [1], bytes(4)) + part(9, bytes(4)), "field 9 of a tensor twice"),
        (tensor("t", [1], bytes(4)) + part(8, "u"), "field 8 of a tensor twice"),
        (tensor("t", [1], bytes(4)) + part(14, b"x"), "field 14 of a tensor"),
        (varint(1 << 3 | FIXED32) + bytes(4), "field 1 of a list of numbers"),
        (external([2], location="d", offset="-1"), "the offset of t is -1, not a number"),
        (external([2], location="d", offset="1e5"), "not a number of bytes"),
        (external([2], location="d", offset="٣"), "not a number of bytes"),
        (external([2], location="d", length="9" * 4000), "not a number of bytes"),
        (external([2], location="d", length="7"), r"t holds 7 bytes; FLOAT \[2\] needs 8"),
        (external([1], **{f"k{i}": "" for i in range(17)}), "more than 16 words"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(path: Path, content: bytes, match: str) -> None:
    refused(path, model(content), match)


def test_a_second_tensor_or_property_of_one_name_is_refused(path: Path) -> None:
    one = tensor("t", [1], bytes(4))
    refused(path, model(one, one), "the tensor t twice")
    refused(path, model(more=prop("k", "1") + prop("k", "2")), "the property k twice")


@pytest.mark.parametrize("name", [b"\xff", b"a\xc3", b"\xed\xa0\x80"])
def test_texts_that_are_not_utf8_are_refused(path: Path, name: bytes) -> None:
    refused(path, model(tensor(name, [1], bytes(4))), "name is not valid UTF-8")
    refused(path, model(more=prop(name, "1")), "key is not valid UTF-8")
    refused(path, model(more=prop("k", name)), "property is not valid UTF-8")
    refused(path, part(7, part(11, part(1, name))), "name is not valid UTF-8")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J\x1b[31m", "x" * 4000, "\u202egnp.exe", "\x00"])
def test_names_cannot_break_the_line_or_the_terminal(path: Path, name: str) -> None:
    refused(path, model(tensor(name, [2], bytes(4))), "holds 4 bytes")
    refused(path, model(*[tensor(name, [1], bytes(4))] * 2), "twice")
    refused(path, model(more=prop(name, "1") * 2), "twice")
    path.write_bytes(model(external([1], location=name)))
    with OnnxFile(path) as file, pytest.raises(FormatError, match="in its own folder") as caught:
        file.require_external()
    one_line(path, caught.value)


@pytest.mark.parametrize(
    "location",
    ["", ".", "..", "../d", "a/d", "/etc/passwd", "a\\d", "..\\d", "C:d", "C:\\d", "d:stream",
     "d\0", "d\n", "x" * 256, "é" * 128],
)  # fmt: skip
def test_weights_anywhere_but_in_the_same_folder_are_refused(path: Path, location: str) -> None:
    path.write_bytes(model(external([1], location=location)))
    with OnnxFile(path) as file:
        for ask in (file.require_external, lambda: file.tensors["t"].raw):
            with pytest.raises(FormatError, match="wanted the name of a file in its own folder"):
                ask()


def test_weights_that_are_not_there_or_cut_off_are_refused_with_what_to_do(path: Path) -> None:
    path.write_bytes(model(external([4], location="d", offset="8")))
    data = path.parent / "d"
    with OnnxFile(path) as file:
        with pytest.raises(FormatError, match="lie in d, which is not there; put") as caught:
            file.require_external()
        one_line(path, caught.value)
    for n_bytes, match in ((0, "the file is empty"), (7, "holds 7 bytes"), (23, "holds 23 bytes")):
        data.write_bytes(bytes(n_bytes))
        with OnnxFile(path) as file:
            with pytest.raises(FormatError, match=match) as caught:
                file.require_external()
            one_line(data, caught.value)
    data.write_bytes(bytes(range(24)))
    with OnnxFile(path) as file:
        assert file.tensors["t"].raw.tolist() == list(range(8, 24))


def test_weights_behind_a_link_are_read_as_caches_of_downloads_keep_them(path: Path) -> None:
    (path.parent / "blobs").mkdir()
    (path.parent / "blobs" / "x").write_bytes(bytes(4))
    try:
        (path.parent / "d").symlink_to(path.parent / "blobs" / "x")
    except OSError:
        pytest.skip("this system makes no links for this user")
    path.write_bytes(model(external([1], location="d")))
    with OnnxFile(path) as file:
        assert file.tensors["t"].raw.tolist() == [0] * 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_instead_of_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(FormatError, match="is not a regular file"):
        OnnxFile(path)
    path.unlink()
    path.write_bytes(model(external([1], location="d")))
    os.mkfifo(path.parent / "d")
    with OnnxFile(path) as file, pytest.raises(FormatError, match="is not a regular file"):
        file.require_external()


@pytest.mark.skipif(os.name == "nt", reason="Windows cuts no file that is mapped")
def test_a_file_that_is_cut_while_it_is_open_is_noticed(path: Path) -> None:
    data = path.parent / "d"
    for cut in (path, data):
        path.write_bytes(model(external([4], location="d")))
        data.write_bytes(bytes(16))
        with OnnxFile(path) as file:
            file.require_external()
            file.require_whole()
            os.truncate(cut, 8)
            with pytest.raises(FormatError, match="was cut to 8 of") as caught:
                file.require_whole()
            one_line(cut, caught.value)


def test_a_file_cut_off_at_any_byte_is_refused(path: Path) -> None:
    written_by_onnx(path)
    whole = path.read_bytes()
    n_refused = 0
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        try:
            OnnxFile(path).close()
        except FormatError as error:
            one_line(path, error)
            n_refused += 1
    # Protobuf does not say where it ends: after the graph it may be cut between two properties.
    assert n_refused > len(whole) - 6


def many_tensors(n: int) -> bytes:
    return model(*(tensor(b"%06d" % i, [1], bytes(4)) for i in range(n)))


def many_texts(n: int) -> bytes:
    return model(more=prop("k", json.dumps(["ab"] * n)))


def many_lists(n: int) -> bytes:
    """Each by itself is no longer than a vocabulary."""
    return model(more=b"".join(prop(str(i), json.dumps([""] * (n // 8))) for i in range(8)))


def many_holders(n: int) -> bytes:
    return model(more=prop("k", "[" + ",".join(["{}"] * (n // 2)) + "]"))


def many_inputs(n: int) -> bytes:
    return part(7, part(11, part(1, "a")) * n)


def many_fields(n: int) -> bytes:
    return part(7, b"\x10\x00" * (n - 1))


@pytest.mark.parametrize(
    ("make", "most", "match"),
    [
        (many_tensors, MAX_TENSORS, "it has more tensors than any model, 32,768"),
        (many_texts, MAX_METADATA_VALUES, "hold more values than any model's, 524,288"),
        (many_lists, MAX_METADATA_VALUES, "hold more values"),
        (many_holders, MAX_METADATA_VALUES, "hold more values"),
        (many_inputs, 4096, "it has more inputs than any model, 4,096"),
        (many_fields, MAX_FIELDS, "it has more parts than any model, 524,288"),
    ],
)
def test_what_is_small_in_a_file_and_large_in_memory_is_bounded(
    path: Path, make: Callable[[int], bytes], most: int, match: str
) -> None:
    """An eighth of what is let through takes an eighth of what it may take, or less."""
    path.write_bytes(make(most // 8))
    tracemalloc.start()
    try:
        OnnxFile(path).close()
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + (64 << 20) // 8
    finally:
        tracemalloc.stop()
    path.write_bytes(make(most + 16))
    with pytest.raises(FormatError, match=match):
        OnnxFile(path)


def test_a_text_that_grows_in_memory_is_bounded(path: Path) -> None:
    """Python holds four bytes for each letter of a text that has one emoji."""
    most = MAX_TEXT_BYTES - 200
    for text, fits in (
        ('"' + "a" * (most // 3 - 20) + '\\ud83d\\ude42"', True),
        ('"' + "a" * (most - 20) + '\\n"', True),
        ('"' + "a" * (most // 3 - 20) + '🙂"', True),
        ("a" * (most // 3 - 20) + "🙂", True),
        ('"' + "a" * (most // 3 + 200) + '🙂"', False),
        ("a" * (2 * most), True),
        ("\\" * (most + 400), False),
        ("[" + "1," * (most // 2 - 20) + "1]", True),
        ("[" + "-1," * (most // 3 - 20) + "1]", True),
    ):
        path.write_bytes(model(more=prop("k", text)))
        tracemalloc.start()
        try:
            if fits:
                OnnxFile(path).close()
            else:
                with pytest.raises(FormatError, match="it holds more text than any model"):
                    OnnxFile(path)
            peak = tracemalloc.get_traced_memory()[1]
            assert peak < 2 * path.stat().st_size + (64 << 20), (text[:20], peak)
        finally:
            tracemalloc.stop()


@pytest.fixture(scope="module")
def open_mutated(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[list[tuple[int, int]], int | None], None]:
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    written_by_onnx(path)
    whole = path.read_bytes()

    def open_mutated(changes: list[tuple[int, int]], cut: int | None) -> None:
        content = bytearray(whole)
        for at, value in changes:
            content[at % len(content)] = value
        path.write_bytes(content[: cut if cut is None else cut % len(content)])
        try:
            with OnnxFile(path) as file:
                for tensor in file.tensors.values():
                    if tensor.offset is not None and tensor.location is None:
                        assert tensor.raw.size == tensor.n_bytes
        except FormatError as error:
            one_line(path, error)

    return open_mutated


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.sampled_from([0, 1, 2, 5, 0x7F, 0x80, 0xFF])),
        min_size=1,
        max_size=8,
    ),
    cut=st.one_of(st.none(), st.none(), st.integers(0, 1 << 20)),
)
def test_no_mutation_of_a_file_does_worse_than_being_refused(
    open_mutated: Callable[[list[tuple[int, int]], int | None], None],
    changes: list[tuple[int, int]],
    cut: int | None,
) -> None:
    open_mutated(changes, cut)


def test_a_refused_file_is_unmapped_at_once(path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the maps of a process can be read on Linux alone")
    path.write_bytes(part(1, 10))
    # Kept, as a log or a debugger would: its traceback holds the frames.
    with pytest.raises(FormatError) as caught:
        OnnxFile(path)
    assert not re.search(re.escape(path.name), maps.read_text())
    assert caught.value


def test_an_onnx_is_told_by_what_it_holds_whatever_its_name(path: Path) -> None:
    written_by_onnx(path)
    content = path.read_bytes()
    other = path.with_suffix(".bin")
    other.write_bytes(content)
    assert looks_like_onnx(other)
    assert is_onnx(other)
    for not_one in (
        content[:-1],
        content + b"\x00",
        b"",
        b"PK\x03\x04" + bytes(99),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
        struct.pack("<Q", 0x1208) + b"{" + b" " * 0x1207,
        part(1, 10),
        part(1, b"piece") * 3,
    ):
        other.write_bytes(not_one)
        assert not looks_like_onnx(other)
        assert not is_onnx(other)
    path.write_bytes(b"damaged")
    assert is_onnx(path)
    assert not is_onnx(path.parent)
