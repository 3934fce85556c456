"""Arguments of every kind: forms that an array can have, and what no call of an index takes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from fault_tools import CODES, D

from hyperpq.filters.selectors import IDSelectorRange, SearchParameters

N = 6
RNG = np.random.default_rng(21)
# Whole numbers, which every dtype can hold; as booleans zeros and ones.
X = RNG.integers(0, 2, (N, D)).astype(np.float32) * RNG.integers(1, 100, (N, D))
IDS = np.array([4, 0, 33, 20, 7, 9])


# Forms of an array: the same numbers, otherwise laid out.

FORMS = {
    "plain": lambda a: a,
    "Fortran": np.asfortranarray,
    "strided": lambda a: (
        np.repeat(np.repeat(a, 3, 0), 2, -1)[::3, ..., ::2][: len(a)]
        if a.ndim > 1
        else np.repeat(a, 3)[::3]
    ),
    "backwards": lambda a: np.flip(np.flip(a).copy()),
    "read-only": lambda a: _read_only(a.copy()),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": lambda a: _unaligned(a),
    "masked nowhere": np.ma.masked_array,
    "a subclass": lambda a: a.view(np.memmap),
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "list of arrays": list,
    "memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
    "tensor": lambda a: torch.tensor(a),
    "tensor of another order": lambda a: torch.from_numpy(np.asfortranarray(a)),
}


def _read_only(a):
    a.flags.writeable = False
    return a


def _unaligned(a):
    out = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


NO_BUFFERS = (np.dtype("longdouble").name, "datetime64[ns]")
NO_TENSORS = (*NO_BUFFERS, "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64", "longdouble")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def forms(array):
    """``array`` in each form that there is of its dtype."""
    for name, form in FORMS.items():
        if name.startswith("tensor") and array.dtype.name in NO_TENSORS:
            continue
        if name == "memoryview" and array.dtype.name in NO_BUFFERS:
            continue
        yield name, form(array)


def masked(array):
    out = np.ma.masked_array(array.copy())
    out[0] = np.ma.masked
    return out


class Nonsense:
    def __repr__(self):
        return "Nonsense()"


class Unreadable:
    def __array__(self, *_, **__):
        raise KeyError("no array")


def ragged():
    return [[1.0] * D, [1.0]]


def endless():
    out = []
    out.append(out)
    return out


# What no call takes for an array of numbers.
NO_ARRAYS = {
    "None": lambda: None,
    "a word": lambda: "abc",
    "bytes": lambda: b"abc",
    "a dict": lambda: {"a": 1},
    "a set": lambda: {1, 2},
    "a generator": lambda: (i for i in range(3)),
    "an object": Nonsense,
    "a type": lambda: np.float32,
    "unreadable": Unreadable,
    "endless": endless,
    "a number": lambda: 5,
    "0-d": lambda: np.array(5),
    "strings": lambda: np.full((N, D), "1"),
    "list of strings": lambda: [["a"] * D] * N,
    "objects": lambda: np.full((N, D), None),
    "numbers as objects": lambda: np.ones((N, D), object),
    "fractions": lambda: [[Fraction(1, 2)] * D] * N,
    "structured": lambda: np.zeros((N, D), [("a", "f4"), ("b", "i4")]),
    "structured, empty": lambda: np.zeros((0, D), [("a", "f4"), ("b", "i4")]),
    "void": lambda: np.zeros((N, D), "V8"),
    "complex": lambda: np.ones((N, D), complex),
    "times": lambda: np.zeros((N, D), "M8[s]"),
    "time differences": lambda: np.zeros((N, D), "m8[s]"),
    "huge integers": lambda: [[2**70] * D] * N,
    "integers beyond floats": lambda: [[10**400, 1.5] * (D // 2)] * N,
    "ragged": ragged,
    "ragged objects": lambda: np.array([[1], [1, 2]], object),
    "None among numbers": lambda: [[1.0, None] * (D // 2)] * N,
    "three dimensions": lambda: np.ones((N, D, 1)),
    "bfloat16": lambda: torch.ones(N, D, dtype=torch.bfloat16),
    "with gradient": lambda: torch.ones(N, D, requires_grad=True),
    "sparse": lambda: torch.ones(N, D).to_sparse(),
    "on no device": lambda: torch.ones(N, D, device="meta"),
}
NO_FEATURES = NO_ARRAYS | {
    "one vector": lambda: X[0],
    "nothing": list,
    "no columns": lambda: np.ones((N, 0)),
    "narrow": lambda: X[:, 1:],
    "wide": lambda: np.hstack([X, X]),
    "NaN": lambda: np.where(np.arange(N * D).reshape(N, D) == 9, np.nan, X),
    "infinite": lambda: np.where(np.arange(N * D).reshape(N, D) == 9, -np.inf, X),
    "beyond float32": lambda: np.full((N, D), 1e39),
    "NaN in float16": lambda: np.full((N, D), np.nan, np.float16),
    "masked": lambda: masked(X),
}
NO_IDS = {name: make for name, make in NO_ARRAYS.items() if name not in ("structured, empty",)} | {
    "two dimensions": lambda: IDS[None],
    "floats": lambda: IDS.astype(float),
    "booleans": lambda: IDS > 5,
    "negative": lambda: -IDS - 1,
    "beyond int64": lambda: IDS.astype(np.uint64) + 2**63,
    "far beyond": lambda: [2**64 + i for i in range(N)],
    "NaN": lambda: [np.nan] * N,
    "masked": lambda: masked(IDS),
    "structured": lambda: np.zeros(N, [("a", "i8")]),
    "times": lambda: np.zeros(N, "M8[s]"),
    "complex": lambda: IDS.astype(complex),
    "words": lambda: [str(i) for i in IDS],
    "objects": lambda: IDS.astype(object) + 0.5,
}

# What no call takes for a number, an option, a filter.

NO_INTEGERS = {
    "None": lambda: None,
    "a word": lambda: "7",
    "a float": lambda: 7.0,
    "True": lambda: True,
    "numpy's True": lambda: np.True_,
    "a list": lambda: [7],
    "0-d": lambda: np.array(7),
    "an array": lambda: np.array([7, 8]),
    "a tensor": lambda: torch.tensor(7),
    "a float of numpy": lambda: np.float32(7),
    "a time difference": lambda: np.timedelta64(7, "s"),
    "a date": lambda: np.datetime64("2020-01-01"),
    "complex": lambda: 7j,
    "complex of numpy": lambda: np.complex64(7),
    "a fraction": lambda: Fraction(7),
    "NaN": lambda: float("nan"),
    "an object": Nonsense,
    "beyond int64": lambda: 2**63,
    "far below": lambda: -(10**400),
    "far beyond": lambda: 10**400,
}
NO_COUNTS = NO_INTEGERS | {"0": lambda: 0, "-1": lambda: -1, "-1 of numpy": lambda: np.int8(-1)}
NO_IDS_ALONE = NO_INTEGERS | {"-1": lambda: -1}
NO_NUMBERS = {
    name: make
    for name, make in NO_INTEGERS.items()
    if name not in ("a float", "a float of numpy", "beyond int64")
}
NO_FILTERS = {
    "a number": lambda: 5,
    "bytes": lambda: b"half > 3",
    "a list": lambda: ["half > 3"],
    "an array": lambda: np.array("half > 3"),
    "True": lambda: True,
    "an object": Nonsense,
    "nothing": str,
    "a mask": lambda: X[:, 0] > 3,
    "a selector": lambda: IDSelectorRange(0, 3),
}
NO_SETS = {
    "a number": lambda: 5,
    "a word": lambda: "half > 3",
    "a list": lambda: [("half", IDS)],
    "an array": lambda: IDS,
    "an object": Nonsense,
    "a type": lambda: SearchParameters,
}
NO_PARAMETERS = NO_SETS | {"a dict": dict, "a selector": lambda: IDSelectorRange(0, 3)}
NO_CHOICES = {
    "a number": lambda: 5,
    "another word": lambda: "nonsense",
    "bytes": lambda: b"l1",
    "a list": lambda: ["l1"],
    "a dict": dict,
    "an object": Nonsense,
}
NO_CODES = NO_ARRAYS | {
    "wide": lambda: np.zeros((3, 5), np.uint8),
    "int64": lambda: CODES[:3].astype(int),
    "masked": lambda: masked(CODES[:3]),
}
NO_COLUMN = {name: make for name, make in NO_ARRAYS.items() if name != "a number"} | {
    "a number": lambda: 5,
    "short": lambda: IDS[1:] / 2,
    "masked": lambda: masked(IDS / 2),
    "complex": lambda: IDS * 1j,
    "strings": lambda: ["a"] * N,
    "times": lambda: IDS.astype("M8[s]"),
    "structured": lambda: np.zeros(N, [("a", "f8")]),
    "integers that floats don't hold": lambda: [2**53 + 1] * N,
}


def without(arguments, *names):
    return {name: make for name, make in arguments.items() if name not in names}
