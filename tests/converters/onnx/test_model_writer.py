"""A model written piece by piece is the one that onnx itself would write, to the byte counted."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx
from onnx import TensorProto, helper, numpy_helper

from rwkv_edge.converters.onnx import model_writer
from rwkv_edge.converters.onnx.model_writer import ModelLayout, data_file_of, varint
from rwkv_edge.converters.onnx.stored_weights import Initializer
from rwkv_edge.errors import InputError
from rwkv_edge.onnx_model_file import FORMAT_KEY
from rwkv_edge.quant import Bytes

METADATA = {"general.architecture": '"rwkv7"', "ключ": '["é"]', FORMAT_KEY: "1"}
DTYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.UINT8: "u1"}
# Beside what is 1 KiB and one byte less: lengths at which protobuf takes a byte more.
SIZES = (1, 100, 127, 128, 1023, 1024, 5000, 16383, 16384, 40000)


def skeleton() -> "onnx.ModelProto":
    """A graph that adds up the elements of one weight, and a constant."""
    nodes = [
        helper.make_node("ReduceSum", ["w4"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "one"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    opset = helper.make_opsetid("", 21)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10, producer_name="test")


def weights() -> dict[str, tuple[Initializer, Bytes]]:
    random = np.random.default_rng(0)
    made = {}
    for i, size in enumerate(SIZES):
        weight = Initializer(f"w{i}", TensorProto.UINT8, (size,))
        made[weight.name] = (weight, random.integers(0, 256, size, np.uint8))
    numbers = random.normal(size=(3, 5, 40)).astype(np.float32)
    weight = Initializer("w4", TensorProto.FLOAT, numbers.shape)
    made["w4"] = (weight, numbers.reshape(-1).view(np.uint8))
    return made


def pieces_of(made: dict[str, tuple[Initializer, Bytes]]) -> Iterator[Bytes | None]:
    """As they come from a conversion: in several parts, one buffer for all of them."""
    buffer = np.empty(777, np.uint8)
    for _, content in made.values():
        for start in range(0, content.size, buffer.size):
            part = content[start : start + buffer.size]
            buffer[: part.size] = part
            yield buffer[: part.size]
        yield None


def layout_of(path: Path, *, external: bool = False) -> ModelLayout:
    described = [weight for weight, _ in weights().values()]
    return ModelLayout(path, skeleton(), described, METADATA, external=external)


def write(path: Path, *, external: bool = False) -> Path | None:
    return layout_of(path, external=external).write(pieces_of(weights()), lambda: METADATA)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def check(path: Path) -> None:
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load_model(path)
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, (weight, content) in weights().items():
        assert found[name].shape == weight.shape
        assert found[name].dtype == DTYPES[weight.data_type]
        assert found[name].tobytes() == content.tobytes()
    assert found["one"] == 1
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    assert model.producer_name == "test"
    assert [node.op_type for node in model.graph.node] == ["ReduceSum", "Add"]


def test_one_file_is_what_onnx_reads(tmp_path: Path) -> None:
    assert write(tmp_path / "m.onnx") is None
    check(tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx"]


def test_one_file_is_what_onnx_writes(tmp_path: Path) -> None:
    """To the byte, but for the order of the fields: they are sorted when it writes them again."""
    write(tmp_path / "m.onnx")
    expected = skeleton()
    for weight, content in weights().values():
        tensor = TensorProto(dims=weight.shape, data_type=weight.data_type, name=weight.name)
        tensor.raw_data = content.tobytes()
        expected.graph.initializer.append(tensor)
    for key, value in METADATA.items():
        expected.metadata_props.add(key=key, value=value)
    content = (tmp_path / "m.onnx").read_bytes()
    again = onnx.ModelProto.FromString(content)
    assert again.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )
    assert len(content) == expected.ByteSize()


def test_there_is_one_graph_field(tmp_path: Path) -> None:
    """Readers that take the last of several, not all of them together, would lose the weights."""
    write(tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    numbers, position = [], 0
    while position < len(content):
        tag, position = decoded_varint(content, position)
        length, position = decoded_varint(content, position)
        numbers.append(tag >> 3)
        position += length if tag & 7 == 2 else 0
    assert position == len(content)
    assert numbers.count(onnx.ModelProto.GRAPH_FIELD_NUMBER) == 1


def decoded_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 16383, 16384, 2**31 - 1, 2**31, 2**63])
def test_a_varint_decodes_to_its_number(number: int) -> None:
    assert decoded_varint(varint(number), 0) == (number, len(varint(number)))
    assert len(varint(number)) == max(1, -(-number.bit_length() // 7))


@pytest.mark.parametrize("external", [False, True])
def test_the_sizes_are_known_before(tmp_path: Path, external: bool) -> None:
    layout = layout_of(tmp_path / "m.onnx", external=external)
    sizes = layout.model_bytes, layout.data_bytes
    data = layout.write(pieces_of(weights()), lambda: METADATA)
    found = (tmp_path / "m.onnx").stat().st_size, data.stat().st_size if data else 0
    assert found == sizes
    assert layout.is_external == (data is not None) == external


def test_a_data_file_holds_the_large_weights(tmp_path: Path) -> None:
    data = write(tmp_path / "m.onnx", external=True)
    assert data is not None
    check(tmp_path / "m.onnx")
    model = onnx.load_model(tmp_path / "m.onnx", load_external_data=False)
    content, places = data.read_bytes(), {}
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        is_large = tensor.name != "one" and weights()[tensor.name][0].n_bytes >= 1024
        assert (tensor.data_location == TensorProto.EXTERNAL) == is_large == bool(entries)
        if is_large:
            assert entries["location"] == data.name
            start, n_bytes = int(entries["offset"]), int(entries["length"])
            assert start % 4096 == 0
            places[start] = start + n_bytes
            expected = weights()[tensor.name][1].tobytes()
            assert content[start : start + n_bytes] == expected
    assert sorted(places) == list(places)
    assert max(places.values()) == len(content)


def test_a_data_file_is_named_by_its_content(tmp_path: Path) -> None:
    data = write(tmp_path / "m.onnx", external=True)
    assert data is not None
    assert data.name == f"m.{zlib.crc32(data.read_bytes()):08x}.data"
    assert names(tmp_path) == sorted(["m.onnx", data.name])


def test_more_than_protobuf_holds_goes_into_a_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = layout_of(tmp_path / "m.onnx").model_bytes
    monkeypatch.setattr(model_writer, "MAX_MODEL_BYTES", most)
    assert not layout_of(tmp_path / "m.onnx").is_external
    monkeypatch.setattr(model_writer, "MAX_MODEL_BYTES", most - 1)
    assert layout_of(tmp_path / "m.onnx").is_external
    write(tmp_path / "m.onnx")
    check(tmp_path / "m.onnx")


def test_two_gigabytes_are_the_limit(tmp_path: Path) -> None:
    def is_external(n_bytes: int) -> bool:
        weight = Initializer("w", TensorProto.UINT8, (n_bytes,))
        layout = ModelLayout(tmp_path / "m.onnx", skeleton(), [weight], {})
        assert not layout.is_external or layout.data_bytes == n_bytes
        return layout.is_external

    assert not is_external(2**31 - 1000)
    assert is_external(2**31)
    assert is_external(3 * 2**32)


def replaced(folder: Path) -> tuple[Path, Path]:
    """A model with a data file, and that file."""
    data = write(folder / "m.onnx", external=True)
    assert data is not None
    return folder / "m.onnx", data


def other_pieces() -> Iterator[Bytes | None]:
    for piece in pieces_of(weights()):
        yield None if piece is None else piece ^ np.uint8(1)


@pytest.mark.parametrize("external", [False, True])
def test_the_data_file_of_what_is_replaced_goes_with_it(tmp_path: Path, external: bool) -> None:
    path, data = replaced(tmp_path)
    assert data_file_of(path) == data
    layout = layout_of(path, external=external)
    new = layout.write(other_pieces(), lambda: METADATA)
    assert names(tmp_path) == sorted(["m.onnx", *([new.name] if new else [])])
    onnx.checker.check_model(path)


def test_the_same_content_again_keeps_its_data_file(tmp_path: Path) -> None:
    path, data = replaced(tmp_path)
    assert write(path, external=True) == data
    check(path)
    assert names(tmp_path) == sorted(["m.onnx", data.name])


@pytest.mark.parametrize("kind", ["foreign", "no model", "other name", "absent"])
def test_no_file_is_removed_that_is_not_the_older_models_own(tmp_path: Path, kind: str) -> None:
    path, data = replaced(tmp_path)
    if kind == "foreign":
        model = onnx.load_model(path, load_external_data=False)
        del model.metadata_props[:]
        path.write_bytes(model.SerializeToString())
    elif kind == "no model":
        path.write_bytes(b"notes on " + data.name.encode())
    elif kind == "other name":
        # As after `mv`: the data file still has the name of the other model.
        path = path.rename(tmp_path / "n.onnx")
    else:
        path.unlink()
    assert data_file_of(path) is None
    layout_of(path, external=True).write(other_pieces(), lambda: METADATA)
    assert data.exists()


def test_a_failure_leaves_the_older_model_whole(tmp_path: Path) -> None:
    path, data = replaced(tmp_path)
    before = path.read_bytes(), data.read_bytes()

    def failing(after: int) -> Iterator[Bytes | None]:
        for i, piece in enumerate(other_pieces()):
            if i == after:
                raise OSError("enough")
            yield piece

    def no_metadata() -> dict[str, str]:
        raise OSError("enough")

    n_pieces = sum(1 for _ in other_pieces())
    for external in (False, True):
        for pieces, metadata in (
            (failing(0), lambda: METADATA),
            (failing(n_pieces - 1), lambda: METADATA),
            (other_pieces(), no_metadata),
        ):
            with pytest.raises(OSError, match="enough"):
                layout_of(path, external=external).write(pieces, metadata)
            assert names(tmp_path) == sorted(["m.onnx", data.name])
            assert (path.read_bytes(), data.read_bytes()) == before


def test_what_killed_exports_left_goes_before_anything_is_written(tmp_path: Path) -> None:
    """Also that of a data file, where this export makes none."""
    for name in (".m.data.4194305-0a.partial", ".m.onnx.4194305-0b.partial"):
        (tmp_path / name).write_bytes(b"half")

    def watched() -> Iterator[Bytes | None]:
        assert "4194305" not in str(names(tmp_path))
        yield from pieces_of(weights())

    layout_of(tmp_path / "m.onnx").write(watched(), lambda: METADATA)
    assert names(tmp_path) == ["m.onnx"]


def test_a_failure_keeps_a_data_file_that_was_there(tmp_path: Path) -> None:
    """It has the content that the older model refers to."""
    path, data = replaced(tmp_path)

    def no_metadata() -> dict[str, str]:
        raise OSError("enough")

    with pytest.raises(OSError, match="enough"):
        layout_of(path, external=True).write(pieces_of(weights()), no_metadata)
    check(path)
    assert data.exists()


def test_weights_of_another_length_are_our_own_mistake(tmp_path: Path) -> None:
    for pieces in ([], [np.zeros(1, np.uint8)], [*pieces_of(weights()), None]):
        with pytest.raises(AssertionError):
            layout_of(tmp_path / "m.onnx").write(pieces, lambda: METADATA)
    with pytest.raises(AssertionError, match="longer"):
        layout_of(tmp_path / "m.onnx").write(pieces_of(weights()), lambda: {"a": "b"})
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
@pytest.mark.parametrize("stem", [b"\xff", b"a:b", b"a\\b", b"a\nb", b"a" * 245])
def test_a_name_that_no_model_can_hold_is_refused(tmp_path: Path, stem: bytes) -> None:
    """The models themselves may be called so."""
    path = tmp_path / os.fsdecode(stem + b".onnx")
    with pytest.raises(InputError, match="no model can name such a data file"):
        layout_of(path, external=True)
    if len(stem) < 200:
        write(path)
        check(path.rename(tmp_path / "m.onnx"))
