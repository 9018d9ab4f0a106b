"""The part of pickle that describes a dict of tensors, and nothing that can call anything.

A pickle is a program for a small stack machine. `torch.save` uses a few of its instructions to
say "a dict; this key; a tensor over that storage". This module runs those few itself: a global
is only ever a name in a table here, so a hostile file has nothing to call.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, Protocol, cast

from rwkv_edge.converters.checkpoints.base import MAX_DIMENSIONS, is_size, plain
from rwkv_edge.errors import FormatError

# The largest published model describes itself in 0.3 MB and 80,000 instructions. Each of those may
# be a single byte and take 80 in memory.
MAX_PICKLE_BYTES = 4 << 20
MAX_INSTRUCTIONS = 1 << 19
# Keys beside names are small numbers. Multiples of 2^61 - 1 all have one hash, and a dict of them
# takes time as the square of its size.
MAX_NUMBER_KEY = 1 << 32

STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    # Known by name so that the message can say what a tensor holds; none of them is read.
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class PickleError(FormatError):
    """What is wrong with the pickle, without the name of the file that holds it."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle mentions; it never becomes the object that the name stands for."""

    module: str
    name: str

    def __str__(self) -> str:
        """The dotted name."""
        return plain(f"{self.module}.{self.name}")


@dataclass(frozen=True)
class Storage:
    """A flat run of numbers: `key` says where it lies, in a zip file the name of a member.

    n_elements: all that lie there; a view sees `n_visible` of them, from `first` on.
    """

    key: str
    dtype: str
    n_elements: int
    first: int
    n_visible: int


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage: offset and strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Stream(Protocol):
    """What a pickle is read from: it ends at its own last instruction."""

    def read(self, n_bytes: int, /) -> bytes:
        """Up to so many bytes."""

    def readline(self) -> bytes:
        """Up to the end of a line."""

    def tell(self) -> int:
        """Where the next read begins."""


class _Mark:
    """Where an argument list begins on the stack."""


_MARK = _Mark()


def load_tensors(data: bytes) -> dict[Any, Any]:
    """Run a pickle made by `torch.save(dict)`: dicts, lists and numbers, with PickledTensor leaves.

    Raises PickleError for any instruction or global that a checkpoint does not need.
    """
    return require_dict(load_value(BytesIO(data)))


def load_value(stream: Stream, tensors: Mapping[str, PickledTensor] | None = None) -> Any:
    """Run one pickle out of a file that may hold more; any value, as `load_tensors` reads them.

    tensors: those that the pickle may refer to by these names alone. Raises PickleError.
    """
    machine = _Machine(tensors or {})
    try:
        opcodes = pickletools.genops(cast("IO[bytes]", stream))
        for n_done, (opcode, argument, _) in enumerate(opcodes):
            if opcode.name == "STOP":
                break
            if n_done == MAX_INSTRUCTIONS:
                raise PickleError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            machine.step(opcode.name, argument)
        return machine.pop()
    except PickleError:
        raise
    # genops and the handlers meet every kind of nonsense that bytes can spell.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise PickleError(f"its pickle is damaged ({plain(str(error))})") from error


def require_dict(value: Any) -> dict[Any, Any]:
    """The value if it is a dict; raises PickleError."""
    if not isinstance(value, dict):
        raise PickleError(f"holds {describe(value)}; wanted a dict of tensors by name")
    return value


class _Machine:
    """The stack and the memo. Containers are Python's own; nothing else is ever built."""

    def __init__(self, tensors: Mapping[str, PickledTensor]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.tensors = tensors

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _HANDLERS:
            _HANDLERS[name](self, argument)
        else:
            raise PickleError(
                f"its pickle uses the instruction {name}, which no dict of tensors needs; "
                "refused without running it"
            )

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("its pickle is damaged (a mark where a value belongs)")
        return value

    def top(self) -> Any:
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark, which goes too."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                values = self.stack[i + 1 :]
                del self.stack[i:]
                return values
        raise PickleError("its pickle is damaged (a mark is missing)")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, key: int) -> None:
        self.memo[int(key)] = self.top()

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(pairs) % 2:
            raise PickleError("its pickle is damaged (items set on something that is no dict)")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | bool | None):
                raise PickleError(f"has a dict key that is {describe(key)}")
            if isinstance(key, int) and abs(key) > MAX_NUMBER_KEY:
                raise PickleError("has a dict key that is a number past 32 bits")
            target[key] = value

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise PickleError("its pickle is damaged (items appended to something that is no list)")
        target.extend(values)

    def reduce(self) -> None:
        arguments = self.pop()
        called = self.pop()
        build = _BUILDERS.get(str(called)) if isinstance(called, Global) else None
        if build is None or not isinstance(arguments, tuple):
            raise PickleError(f"its pickle calls {describe(called)}; refused without running it")
        self.push(build(*arguments))

    def build(self) -> None:
        """An OrderedDict's attributes (`_metadata` of a state_dict): nothing we need."""
        self.pop()
        if not isinstance(self.top(), dict):
            raise PickleError(f"its pickle sets attributes of {describe(self.top())}; refused")

    def push_global(self, module: Any, name: Any) -> None:
        # What is no str may hold itself, and have a text without end.
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("its pickle is damaged (a global that no text names)")
        found = Global(module, name)
        if (
            str(found) not in _BUILDERS
            and storage_dtype(found) is None
            and not is_tensor_class(found)
        ):
            raise PickleError(
                f"its pickle names {found}, which no dict of tensors needs; refused without "
                "importing it; if the file is yours, save the plain state dict again"
            )
        self.push(found)

    def persistent_id(self) -> None:
        """('storage', type, key, where it lay, number of elements), then what a view sees of it:

        None, or (key, first element, number of elements). Or the name of a tensor read before.
        """
        found = self.pop()
        if isinstance(found, str | int) and str(found) in self.tensors:
            self.push(self.tensors[str(found)])
            return
        if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage":
            raise PickleError(f"its pickle refers to {describe(found)}; wanted a storage")
        kind, key, _, n_elements = found[1:5]
        dtype = storage_dtype(kind) if isinstance(kind, Global) else None
        view = found[5] if len(found) == 6 and found[5] is not None else (key, 0, n_elements)
        if (
            dtype is None
            or not isinstance(key, str)
            or not is_size(n_elements)
            or not isinstance(view, tuple)
            or len(view) != 3
            or not all(is_size(n) for n in view[1:])
        ):
            raise PickleError("its pickle describes a storage in a way that torch.save does not")
        self.push(viewed(Storage(key, dtype, n_elements, 0, n_elements), view[1], view[2]))


def describe(value: Any) -> str:
    """A short name for what was found, never its contents."""
    if isinstance(value, Global):
        return str(value)
    if isinstance(value, PickledTensor):
        return "a tensor"
    return f"a {type(value).__name__}"


def viewed(storage: Storage, first: int, n_visible: int) -> Storage:
    """A part of a storage; raises PickleError if it leaves it."""
    if first + n_visible > storage.n_visible:
        raise PickleError(
            f"its pickle describes a view of {n_visible} numbers from {first} on in a storage of "
            f"{storage.n_visible}"
        )
    n_elements = storage.n_elements
    return Storage(storage.key, storage.dtype, n_elements, storage.first + first, n_visible)


def is_tensor_class(found: Global) -> bool:
    """torch.FloatTensor and so on: names that the oldest files mention."""
    kind, is_tensor, rest = found.name.partition("Tensor")
    is_known = f"{kind}Storage" in STORAGE_DTYPES and bool(is_tensor) and not rest
    return found.module in {"torch", "torch.cuda"} and is_known


def storage_dtype(found: Global) -> str | None:
    """What a storage class of torch holds."""
    if found.module in {"torch", "torch.storage"}:
        if found.name == "UntypedStorage":
            return "untyped"
        return STORAGE_DTYPES.get(found.name)
    return None


def rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any
) -> PickledTensor:
    """torch._utils._rebuild_tensor, and _v2, where the unused are gradient flags and hooks."""
    if (
        not isinstance(storage, Storage)
        or not is_size(offset)
        or not isinstance(shape, tuple)
        or not isinstance(strides, tuple)
        or len(shape) != len(strides)
        or len(shape) > MAX_DIMENSIONS
        or not all(is_size(n) for n in (*shape, *strides))
    ):
        raise PickleError("its pickle describes a tensor in a way that torch.save does not")
    return PickledTensor(storage, offset, shape, strides)


def rebuild_parameter(data: Any, *_unused: Any) -> PickledTensor:
    """torch._utils._rebuild_parameter: a tensor that was trained."""
    if not isinstance(data, PickledTensor):
        raise PickleError("its pickle describes a parameter that is no tensor")
    return data


def ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """collections.OrderedDict; Python's dicts are ordered. torch.save calls it with nothing."""
    if len(pairs):
        raise PickleError("its pickle fills an OrderedDict in a way that torch.save does not")
    return {}


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": ordered_dict,
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
}

_LITERALS = frozenset(
    {
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    }
)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _tuple_of(n: int) -> Callable[[_Machine, Any], None]:
    def handler(machine: _Machine, _argument: Any) -> None:
        values = [machine.pop() for _ in range(n)]
        machine.push(tuple(reversed(values)))

    return handler


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push_global(module, name)


def _append_one(machine: _Machine) -> None:
    value = machine.pop()
    machine.append([value])


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.push(_MARK),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "BINPUT": lambda m, key: m.put(key),
    "LONG_BINPUT": lambda m, key: m.put(key),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "BINGET": lambda m, key: m.push(m.memo[int(key)]),
    "LONG_BINGET": lambda m, key: m.push(m.memo[int(key)]),
    "GLOBAL": lambda m, dotted: m.push_global(*str(dotted).split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: _stack_global(m),
    "BINPERSID": lambda m, _: m.persistent_id(),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
    "SETITEM": lambda m, _: _set_item(m),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "APPEND": lambda m, _: _append_one(m),
    "APPENDS": lambda m, _: m.append(m.pop_mark()),
}
