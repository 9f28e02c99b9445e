"""Pickles of numbers, text, plain containers and numpy arrays, read without executing anything.

A pickle is a program for a small stack machine, and Python's own machine calls whatever the program names. The one
below builds plain data only and stops at any other name. Large arrays are noted by their place in the file and read
from there when asked for, so that a dataset is not first held as a pickle's contents and then once more as arrays.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lamo.data.episodes import BLOCK
from lamo.errors import LamoError

_LARGE = 1 << 10  # bytes; smaller ones are simply kept
_ADVICE = "only numpy arrays and plain containers are read; save the data again as .npz or HDF5"


class _Place(NamedTuple):
    """Bytes that stay in the file."""

    file: BinaryIO
    offset: int
    size: int


class PickledArray:
    """A numpy array of a pickle; `array[a:b]` reads rows. An array of objects has them in `items`."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.dtype = np.dtype(np.float64)
        self.items: list[Any] = []
        self._fortran = False
        self._data: bytes | _Place = b""

    def fill(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
        """Set shape, type, order and bytes. Raises `ValueError` where they do not fit each other."""
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise ValueError("an array without shape or type")
        self.shape, self.dtype, self._fortran = tuple(int(n) for n in shape), dtype.real(), bool(fortran)
        count = int(np.prod(self.shape, dtype=object))
        if self.dtype.hasobject:
            if not isinstance(data, list) or len(data) != count:
                raise ValueError("an array of objects without its list")
            self.items = data
            return
        self._data = data.encode("latin-1") if isinstance(data, str) else data  # Python 2 wrote bytes as text
        size = self._data.size if isinstance(self._data, _Place) else len(self._data)
        if min(self.shape, default=0) < 0 or size != self.dtype.itemsize * count:
            raise ValueError("an array whose shape does not fit its bytes")

    def __len__(self) -> int:
        return self.shape[0] if len(self.shape) else 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        whole = self._fortran and len(self.shape) > 1  # columns first: a row is not in one piece
        width = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=object))
        first, last = (0, width * len(self)) if whole else (start * width, stop * width)
        if isinstance(self._data, _Place):
            self._data.file.seek(self._data.offset + first)
            raw = self._data.file.read(last - first)
        else:
            raw = self._data[first:last]
        values = np.frombuffer(raw, self.dtype)
        if whole:
            return values.reshape(self.shape, order="F")[start:stop]
        return values.reshape(max(stop - start, 0), *self.shape[1:])

    def blocks(self) -> Iterator[np.ndarray]:
        """Rows in order, some thousands at a time."""
        return (self[row : row + BLOCK] for row in range(0, len(self), BLOCK))


class _Dtype:
    """`numpy.dtype` of numbers, text or objects; its byte order comes with its state."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        if not isinstance(code, str) or np.dtype(code).kind not in "biufcSUO":
            raise ValueError(f"an array of type {code!r}")
        self.code, self.order = code, "="

    def real(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder("<" if self.order == "<" else ">" if self.order == ">" else "=")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray()
    array.fill(shape, dtype, order == "F", data)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_buffer(data, dtype, (1,), "C")[0:1].tolist()[0]


def _encode(text: Any, encoding: Any) -> bytes:
    return text.encode({"latin1": "latin-1", "latin-1": "latin-1", "utf-8": "utf-8"}[encoding])


def _no_bytes() -> bytes:
    return b""


def _make_set(items: Any) -> set[Any]:
    return set(_is(items, list))


_ADMITTED: dict[str, Callable[..., Any] | None] = {  # None: only ever an argument
    "numpy.dtype": _Dtype,
    "numpy.ndarray": None,
    "numpy.core.multiarray._reconstruct": lambda *_: PickledArray(),
    "numpy._core.multiarray._reconstruct": lambda *_: PickledArray(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encode,
    "collections.OrderedDict": lambda *_: {},
    "collections.defaultdict": lambda *_: {},
    **{
        f"{builtins}.{name}": call
        for builtins in ("builtins", "__builtin__")  # Python 3's name, and Python 2's, which old protocols keep
        for name, call in {"list": None, "bytes": _no_bytes, "set": _make_set}.items()  # list: a defaultdict's factory
    },
}


class _Name(NamedTuple):
    """An admitted name on the stack."""

    name: str


class _Mark:
    """Where a run of arguments begins on the stack."""


_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_COUNTED = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEEP = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_RECALL = {"GET", "BINGET", "LONG_BINGET"}


class Inert:
    """What a pickle wanted to be an object of a class: its name, and what it would have been given. It does nothing."""

    def __init__(self, name: str, arguments: Any) -> None:
        self.name, self.arguments, self.state = name, arguments, None


def read_pickle(file: BinaryIO, source: str, *, inert: bool = False) -> Any:
    """The pickled object; its arrays are `PickledArray` and need `file` to stay open.

    With `inert` objects of other classes are read as well, as `Inert`: none of their code is run.
    Raises `LamoError`, naming it, for anything but numbers, text, lists, tuples, dicts, sets and numpy arrays, and for
    a pickle that is not whole.
    """
    try:
        with warnings.catch_warnings():  # pickletools decodes text as Python would, with its advice on escapes
            warnings.simplefilter("ignore", DeprecationWarning)
            return _run(file, source, inert)
    except LamoError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, EOFError) as error:
        raise LamoError(f"{source}: not a whole pickle ({error}); copy or download it again") from error


def _run(file: BinaryIO, source: str, inert: bool) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = len(stack) - 1
        while not isinstance(stack[at], _Mark):
            at -= 1  # an absent mark ends in IndexError, which is a broken pickle
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def admit(name: str) -> _Name:
        if name not in _ADMITTED and not inert:
            raise LamoError(f"{source}: the pickle asks for {name}, which is code and is not run; {_ADVICE}")
        return _Name(name)

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in _VALUES:
            large = isinstance(argument, bytes | bytearray) and len(argument) >= _LARGE
            stack.append(_Place(file, file.tell() - len(argument), len(argument)) if large else argument)
        elif name in _KEEP:
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif name in _RECALL:
            stack.append(memo[int(argument)])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_Mark())
        elif name in _COUNTED:
            items = tuple(stack[-_COUNTED[name] :])
            del stack[-_COUNTED[name] :]
            stack.append(items)
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            stack.append({"TUPLE": tuple, "LIST": list, "FROZENSET": frozenset}[name](since_mark()))
        elif name == "DICT":
            items = since_mark()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name == "APPEND":
            item = stack.pop()
            _is(stack[-1], list).append(item)
        elif name == "APPENDS":
            items = since_mark()
            _is(stack[-1], list).extend(items)
        elif name == "ADDITEMS":
            items = since_mark()
            _is(stack[-1], set).update(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _is(stack[-1], dict)[key] = value
        elif name == "SETITEMS":
            items = since_mark()
            _is(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "GLOBAL":
            stack.append(admit(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(admit(f"{module}.{attribute}"))
        elif name == "INST":
            admit(argument.replace(" ", ".", 1))
            raise ValueError("an object without class")
        elif name == "REDUCE":
            arguments, function = stack.pop(), _is(stack.pop(), _Name)
            if inert and function.name not in _ADMITTED:
                stack.append(Inert(function.name, arguments))
                continue
            call = _ADMITTED[function.name]
            if call is None:
                raise LamoError(f"{source}: the pickle calls {function.name}; {_ADVICE}")
            stack.append(call(*_is(arguments, tuple)))
        elif name == "NEWOBJ" and inert:
            arguments = stack.pop()
            stack.append(Inert(_is(stack.pop(), _Name).name, arguments))
        elif name == "BUILD":
            state, target = stack.pop(), stack[-1]
            _build(target, state)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise LamoError(f"{source}: the pickle uses {name}, which only objects with code need; {_ADVICE}")
    raise ValueError("no end")


def _is(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(
            f"a {type(value).__name__.strip('_').lower()} where a {kind.__name__.strip('_').lower()} belongs"
        )
    return value


def _build(target: Any, state: Any) -> None:
    if isinstance(target, PickledArray):
        _, shape, dtype, fortran, data = _is(state, tuple)
        target.fill(shape, dtype, fortran, data)
    elif isinstance(target, _Dtype):
        _, order, _, names, *_ = _is(state, tuple)
        if names is not None:
            raise ValueError("an array of records")
        target.order = order
    elif isinstance(target, Inert):
        target.state = state
    else:
        raise ValueError(f"a state for a {type(target).__name__}")
