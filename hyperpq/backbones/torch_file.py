"""`read_state_dict`: the tensors of a file that PyTorch wrote, without PyTorch and without pickle.

Such a file names its tensors in a pickle, which is a program for a stack machine and could call any
function. The few instructions that a state dict consists of are carried out here, two names are
known, and everything else is an error. So a file cannot make anything run, and cannot ask for more
memory than it has bytes.

There are two formats: since PyTorch 1.6 an uncompressed zip archive with a file for each storage,
before it five pickles followed by the storages. The packages with the embedded weights have the old
one.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

# What `torch.save` begins a file of the old format with.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch LongStorage": np.dtype("<i8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """What the file calls a function or a class."""

    text: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True)
class _Tensor:
    """Values of a storage: where the first is, and the steps to the next along each axis."""

    storage: _Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(data: bytes) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict.

    Parameters
    ----------
    data : bytes
        Content of a file that ``torch.save(module.state_dict())`` wrote.

    Returns
    -------
    dict of str to ndarray
        The tensors, float32 or int64, by their names.

    Raises
    ------
    ValueError
        If the file holds anything else, or is damaged.
    """
    try:
        tensors, storages = (_read_zip if data[:4] == b"PK\x03\x04" else _read_legacy)(data)
        return {name: _values(tensor, storages) for name, tensor in tensors.items()}
    except (
        IndexError,
        KeyError,
        OverflowError,
        TypeError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


_Tensors = dict[str, _Tensor]
_Storages = dict[str, NDArray[Any]]


def _values(tensor: _Tensor, storages: _Storages) -> NDArray[Any]:
    """A tensor, in the order of its file; some weights come transposed from TensorFlow."""
    stored, strides = storages[tensor.storage.key], tensor.strides
    if (len(stored), stored.dtype) != (tensor.storage.count, tensor.storage.dtype):
        raise ValueError("a storage has another length or type than the file says")
    last = tensor.start + sum((n - 1) * step for n, step in zip(tensor.shape, strides, strict=True))
    if last >= len(stored) or math.prod(tensor.shape) > len(stored):
        raise ValueError("a tensor is longer than its storage")
    steps = [step * stored.itemsize for step in strides]
    return as_strided(stored[tensor.start :], tensor.shape, steps, writeable=False)


def _as_tensors(value: object) -> _Tensors:
    if isinstance(value, dict) and all(isinstance(one, _Tensor) for one in value.values()):
        return value
    raise ValueError("it holds something else than tensors by names")


def _read_zip(data: bytes) -> tuple[_Tensors, _Storages]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    files = {info.filename: info for info in archive.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in files.values()):
        raise ValueError("the archive is compressed")
    if sum(info.file_size for info in files.values()) > len(data):
        raise ValueError("the files of the archive overlap")
    folder = next((n.removesuffix("data.pkl") for n in files if n.endswith("/data.pkl")), None)
    if folder is None:
        raise ValueError("the archive has no data.pkl")
    if f"{folder}byteorder" in files and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers are big-endian")
    tensors = _as_tensors(_run(io.BytesIO(archive.read(f"{folder}data.pkl"))))
    storages = {}
    for storage in {tensor.storage for tensor in tensors.values()}:
        content = archive.read(f"{folder}data/{storage.key}")
        storages[storage.key] = np.frombuffer(content, storage.dtype)
    return tensors, storages


def _read_legacy(data: bytes) -> tuple[_Tensors, _Storages]:
    file = io.BytesIO(data)
    if _run(file) != _MAGIC or _run(file) != _PROTOCOL:
        raise ValueError("it does not begin as files of PyTorch do")
    system = _run(file)
    if not (isinstance(system, dict) and system["little_endian"] is True):
        raise ValueError("its numbers are big-endian")
    tensors, keys = _as_tensors(_run(file)), _run(file)
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    if not isinstance(keys, list):
        raise ValueError("it has no list of storages")
    at, storages = file.tell(), {}
    for key in keys:
        # Each storage has its length before it.
        count = int.from_bytes(data[at : at + 8], "little")
        storages[key] = np.frombuffer(data, dtypes[key], count, at + 8)
        at += 8 + storages[key].nbytes
    return tensors, storages


def _run(file: io.BytesIO) -> object:
    """The value of one pickle; the file is then behind it."""
    stack: list[Any] = []
    below: list[list[Any]] = []  # stacks below the marks
    memo: dict[int, Any] = {}
    for code, arg, _ in pickletools.genops(file):
        op = code.name
        if op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in _VALUES:
            stack.append(arg)
        elif op in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[op])
        elif op == "GLOBAL":
            stack.append(_Name(str(arg)))
        elif op in ("BINPUT", "LONG_BINPUT"):
            memo[_number(arg)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(memo[_number(arg)])
        elif op == "MARK":
            below.append(stack)
            stack = []
        elif op in _TUPLES:
            items = stack[-_TUPLES[op] :]
            if len(items) != _TUPLES[op]:
                raise ValueError("a tuple has too few values")
            stack[-len(items) :] = [tuple(items)]
        elif op in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, below.pop()
            if op == "TUPLE":
                stack.append(tuple(items))
            elif op == "APPENDS":
                _as_list(stack[-1]).extend(items)
            else:
                _set_items(stack[-1], items)
        elif op == "APPEND":
            value = stack.pop()
            _as_list(stack[-1]).append(value)
        elif op == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        elif op == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif op == "REDUCE":
            args, function = stack.pop(), stack.pop()
            stack.append(_call(function, args))
        elif op == "BUILD":
            stack.pop()  # the versions of the modules, which are attributes of the state dict
        elif op == "STOP":
            return stack.pop()
        elif op != "PROTO":
            raise ValueError(f"it has the instruction {op}, which no state dict needs")
    raise ValueError("it ends within a pickle")


def _number(arg: object) -> int:
    if isinstance(arg, int):
        return arg
    raise ValueError("an instruction has no number")


def _as_list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("values are added to what is no list")
    return value


def _set_items(target: object, items: list[Any]) -> None:
    keys, values = items[::2], items[1::2]
    if not (isinstance(target, dict) and all(isinstance(key, str) for key in keys)):
        raise ValueError("values are stored under what are no names")
    target.update(zip(keys, values, strict=True))


def _storage(value: object) -> _Storage:
    match value:
        case ("storage", _Name(text), str(key), str(), int(count), *rest) if rest in ([], [None]):
            dtype = _STORAGES.get(text)
            if dtype is not None and count >= 0:
                return _Storage(key, dtype, count)
            raise ValueError(f"it has a {text}; expected one of {', '.join(_STORAGES)}")
    raise ValueError("a storage is described in another way than PyTorch does")


def _call(function: object, args: object) -> object:
    """What a state dict calls: a tensor, or an empty dict (itself, or the hooks of a tensor)."""
    match function, args:
        case _Name("collections OrderedDict"), ():
            return {}
        case (
            _Name("torch._utils _rebuild_tensor_v2"),
            (_Storage() as storage, int(start), tuple(shape), tuple(strides), bool(), dict()),
        ):
            if not all(type(n) is int and n >= 0 for n in (start, *shape, *strides)):
                raise ValueError("a tensor has sizes that are no numbers")
            return _Tensor(storage, start, tuple(shape), tuple(strides))
    raise ValueError(f"it calls {getattr(function, 'text', 'a value')!r}, which no state dict does")
