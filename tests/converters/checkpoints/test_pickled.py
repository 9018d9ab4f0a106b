"""A pickle is a program; only the few instructions that describe tensors are obeyed."""

import builtins
import collections
import contextlib
import copyreg
import os
import pickle
import struct
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_edge.converters.checkpoints.pickled import (
    MAX_INSTRUCTIONS,
    MAX_PICKLE_BYTES,
    PickledTensor,
    PickleError,
    load_tensors,
)
from rwkv_edge.converters.checkpoints.pth_writer import integer, named, pickled_entry, text

EVIL = b"__import__('os').environ.__setitem__('PICKLED', 'ran')"


class Calls:
    """Pickles as `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def dict_of(*entries: bytes) -> bytes:
    return b"\x80\x02" + pickle.EMPTY_DICT + pickle.MARK + b"".join(entries) + b"u."


def test_an_entry_becomes_a_tensor() -> None:
    entry = pickled_entry("emb.weight", "bfloat16", (3, 5), "7", 15)
    tensor = load_tensors(dict_of(entry))["emb.weight"]
    assert isinstance(tensor, PickledTensor)
    assert (tensor.shape, tensor.strides, tensor.offset) == ((3, 5), (5, 1), 0)
    assert (tensor.storage.key, tensor.storage.dtype, tensor.storage.n_elements) == (
        "7",
        "bfloat16",
        15,
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "argument", "named_as"),
    [
        (os.system, "exit 3", f"{os.system.__module__}.system"),
        (builtins.eval, EVIL.decode(), "eval"),
        (builtins.exec, EVIL.decode(), "exec"),
        (builtins.getattr, os, "getattr"),
    ],
)
def test_a_call_is_refused_by_name_and_not_made(
    protocol: int, function: Any, argument: Any, named_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PICKLED", raising=False)
    argument = argument if isinstance(argument, str) else "os"
    data = pickle.dumps({"emb.weight": Calls(function, argument)}, protocol)
    # Protocols 0 and 1 are refused for their instructions, before the name.
    with pytest.raises(PickleError, match=named_as if protocol >= 2 else "refused"):
        load_tensors(data)
    assert "PICKLED" not in os.environ


HOSTILE = {
    "INST": b"(S'echo'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'echo'\no.",
    "NEWOBJ": b"cos\nsystem\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04echo\x85R.",
    "REDUCE without a global": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "REDUCE of a tensor's storage class": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "PERSID": b"P0\n.",
    "EXT1": b"\x80\x02\x82\xf0)R.",
    "EXT2": b"\x80\x02\x83\xf0\x00)R.",
    "EXT4": b"\x80\x02\x84\xf0\x00\x00\x00)R.",
    "nested name": b"\x80\x04\x8c\x0btorch._utils\x8c\x1a_rebuild_tensor_v2.__class__\x93.",
    "BUILD on a global": b"\x80\x02ctorch\nFloatStorage\n}b.",
    "BUILD on a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
    "APPEND to a dict": b"\x80\x02}Na.",
    "SETITEM on a list": b"\x80\x02]NNs.",
    "BYTEARRAY8": b"\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00x.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "an OrderedDict of something": b"\x80\x02ccollections\nOrderedDict\n]]NNea\x85R.",
    "no STOP": b"\x80\x02}",
    "an empty stack": b"\x80\x02.",
    "a mark as the result": b"\x80\x02(.",
    "a mark as a value": b"\x80\x02}X\x01\x00\x00\x00a(s.",
    "a missing mark": b"\x80\x02}u.",
    "an unknown memo": b"\x80\x02h\x07.",
    "a memo of nothing": b"\x80\x02q\x00.",
    "an unhashable key": b"\x80\x02}]Ns.",
    "a tensor as a key": b"\x80\x02}ctorch\nFloatStorage\nNs.",
    "an odd number of items": b"\x80\x02}(Nu.",
    "no dict at all": b"\x80\x02]. ",
    "no pickle": b"\xff\xd8\xff\xe0JFIF",
    "a global without a name": b"\x80\x02ctorch\n.",
}


def test_a_name_is_refused_even_if_nothing_calls_it() -> None:
    with pytest.raises(PickleError, match=rf"names {os.system.__module__}\.system"):
        load_tensors(pickle.dumps({"a": os.system}, 2))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("REDUCE of a tensor's storage class", r"calls torch\.FloatStorage"),
        ("REDUCE without a global", "calls a str"),
        ("BUILD on a global", r"sets attributes of torch\.FloatStorage"),
        ("NEWOBJ_EX", r"names os\.system"),
        ("EXT1", "instruction EXT1"),
        ("OBJ", "instruction|names os.system"),
    ],
)
def test_the_message_says_what_was_wanted(case: str, message: str) -> None:
    with pytest.raises(PickleError, match=message):
        load_tensors(HOSTILE[case])


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_checkpoint_does_not_need_is_refused(data: bytes) -> None:
    with pytest.raises(PickleError):
        load_tensors(data)


def test_a_registered_extension_is_not_looked_up() -> None:
    """`copyreg` caches what extension codes stand for, past any find_class."""
    copyreg.add_extension("os", "system", 0xF0)
    try:
        with pytest.raises(PickleError, match="EXT1"):
            load_tensors(b"\x80\x02\x82\xf0X\x04\x00\x00\x00echo\x85R.")
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


def test_torch_is_never_imported() -> None:
    modules = set(sys.modules)
    load_tensors(dict_of(pickled_entry("a", "float32", (1,), "0", 1)))
    assert not {name for name in set(sys.modules) - modules if name.startswith("torch")}


@pytest.mark.parametrize(
    "arguments",
    [
        (b"N", integer(0), b")", b")"),
        (None, integer(-1), b")", b")"),
        (None, b"\x88", b")", b")"),
        (None, integer(0), integer(2) + b"\x85", b")"),
        (None, integer(0), integer(-2) + b"\x85", integer(1) + b"\x85"),
        (None, integer(0), integer(2) + b"\x85", integer(-1) + b"\x85"),
        (None, integer(0), b"(" + integer(1) * 9 + b"t", b"(" + integer(1) * 9 + b"t"),
        (None, integer(0), b"]", b"]"),
        (None, integer(0), integer(1 << 70) + b"\x85", integer(1) + b"\x85"),
    ],
)
def test_a_tensor_of_nonsense_is_refused(
    arguments: tuple[bytes | None, bytes, bytes, bytes],
) -> None:
    storage = (
        b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu")
        + integer(4) + b"tQ"
    )  # fmt: skip
    rebuild = named("torch._utils", "_rebuild_tensor_v2")
    body = (arguments[0] or storage) + b"".join(a for a in arguments[1:] if a is not None)
    with pytest.raises(PickleError, match="tensor"):
        load_tensors(dict_of(text("a") + rebuild + b"(" + body + b"\x89NtR"))


@pytest.mark.parametrize(
    "storage",
    [
        b"N",
        b")",
        text("storage"),
        b"(" + text("module") + b"NNNNt",
        b"(" + text("storage") + b"NNNNt",
        b"(" + text("storage") + named("torch", "FloatStorage") + b"NN" + integer(1) + b"t",
        b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + b"N" + integer(-1)
        + b"t",
    ],
)  # fmt: skip
def test_a_storage_of_nonsense_is_refused(storage: bytes) -> None:
    with pytest.raises(PickleError):
        load_tensors(b"\x80\x02" + storage + b"Q.")


def test_a_deep_nest_does_not_exhaust_the_stack() -> None:
    depth = 200_000
    with pytest.raises(PickleError, match="wanted a dict"):
        load_tensors(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")


def test_doubling_through_the_memo_stays_small() -> None:
    """The "billion laughs": each tuple holds the one before twice."""
    bomb = b"\x80\x02)" + b"".join(b"q\x00h\x00\x86" for _ in range(10_000)) + b"."
    with pytest.raises(PickleError, match="tuple"):
        load_tensors(bomb)


def test_a_container_that_holds_itself_is_no_trap() -> None:
    cyclic = b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s."
    assert load_tensors(cyclic).keys() == {"state_dict"}


def test_a_long_number_costs_no_more_than_its_bytes() -> None:
    n_bytes = MAX_PICKLE_BYTES // 2
    data = (
        b"\x80\x02}" + text("a") + b"\x8b" + struct.pack("<i", n_bytes) + b"\x7f" * n_bytes + b"s."
    )
    assert load_tensors(data)["a"].bit_length() > 1 << 20


def test_messages_are_one_line_whatever_the_file_says() -> None:
    with pytest.raises(PickleError) as caught:
        load_tensors(b"\x80\x02c\x1b[2Jos\nsys\rtem" + b"x" * 1000 + b"\n.")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_an_ordered_dict_with_attributes_is_read() -> None:
    """What nn.Module.state_dict returns: an OrderedDict with `_metadata`."""
    state: Any = collections.OrderedDict()
    state.update(n_layer=3)
    state._metadata = {"": {"version": 1}}
    assert load_tensors(pickle.dumps(state, 2)) == {"n_layer": 3}


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_is_a_pickle_error_or_harmless(data: st.DataObject) -> None:
    whole = bytearray(
        dict_of(
            pickled_entry("emb.weight", "float32", (4, 2), "0", 8),
            pickled_entry("head.weight", "float16", (4, 2), "1", 8),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(PickleError):
        load_tensors(bytes(whole[:cut]))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_pickle_error_or_harmless(data: bytes) -> None:
    with contextlib.suppress(PickleError):
        load_tensors(b"\x80\x02" + data)


@pytest.mark.parametrize("instruction", [b"}", b"]", b"\x94", b"N", b"("])
def test_instructions_of_one_byte_do_not_fill_the_memory(instruction: bytes) -> None:
    """An eighth of the most that are let through, in an eighth of what they may take."""
    tracemalloc.start()
    try:
        with pytest.raises(PickleError):
            load_tensors(b"\x80\x04}" + instruction * (MAX_INSTRUCTIONS // 8))
        assert tracemalloc.get_traced_memory()[1] < (64 << 20) // 8
    finally:
        tracemalloc.stop()
    with pytest.raises(PickleError, match="more than 524,288 instructions"):
        load_tensors(b"\x80\x04}" + instruction * (MAX_INSTRUCTIONS + 1))


def test_keys_of_one_hash_do_not_take_the_square_of_their_number() -> None:
    numbers = [n * ((1 << 61) - 1) for n in range(1, 20_000)]
    assert len(set(map(hash, numbers))) == 1
    entries = b"".join(b"\x8a\x0a" + n.to_bytes(10, "little") + b"N" for n in numbers)
    with pytest.raises(PickleError, match="a number past 32 bits"):
        load_tensors(b"\x80\x02}(" + entries + b"u.")
    assert load_tensors(b"\x80\x02}" + integer(7) + text("a") + b"s.") == {7: "a"}


NAMED_BY = {
    "a list in itself": b"]q\x00h\x00a",
    "a deep list": b"]" * 20_000 + b"a" * 19_999,
    "pairs of pairs": b")q\x00" + b"h\x00h\x00\x86q\x00" * 60,
    "None": b"N",
}


@pytest.mark.parametrize("value", NAMED_BY.values(), ids=NAMED_BY)
def test_a_global_is_named_by_texts_alone(value: bytes) -> None:
    """The text of a pair of pairs of pairs has 2^60 characters; that of a deep list recurses."""
    for stack in (value + text("a"), text("a") + value):
        with pytest.raises(PickleError, match="that no text names"):
            load_tensors(b"\x80\x04" + stack + b"\x93.")
