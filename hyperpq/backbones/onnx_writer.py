"""`GraphWriter`: a minimal writer of ONNX files, sufficient for EfficientNet-Lite.

The exporters of PyTorch need the package ``onnx`` or ``onnxscript`` and change with each release of
PyTorch. The networks here use few operators, and an ONNX file is a protocol buffer with few fields
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). To write it directly takes little code,
avoids these dependencies, and gives the same bytes with every version of PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FLOAT, _UINT8 = 1, 2  # TensorProto.DataType
_TYPES = {"<f4": _FLOAT, "|u1": _UINT8, "|i1": 3, "<i4": 6, "<i8": 7}
_ATTR_INT, _ATTR_INTS = 2, 7  # AttributeProto.AttributeType
_OPSET, _IR_VERSION = 13, 7  # a pair that every ONNX Runtime since 1.6 reads

MICROSOFT = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds to those of ONNX."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: int | str | bytes) -> bytes:
    """One protobuf field: an int as a varint, text and bytes preceded by their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _value_info(name: str, dtype: int, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(1 if isinstance(s, int) else 2, s)) for s in shape)
    tensor = _field(1, dtype) + _field(2, dims)
    return _field(1, name) + _field(2, _field(1, tensor))


class GraphWriter:
    """Collects the nodes of a graph, each with one output, and serializes them as an ONNX file."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._domains: set[str] = set()

    def constant(self, array: np.ndarray) -> str:
        """Store an array of integers or of float32, to which float64 is rounded; its name."""
        name = f"c{len(self._tensors)}"
        dtype = np.dtype(np.float32) if array.dtype == np.float64 else array.dtype
        data = array.astype(dtype.newbyteorder("<"))
        dims = b"".join(_field(1, n) for n in data.shape)
        kind = _field(2, _TYPES[data.dtype.str])
        self._tensors.append(dims + kind + _field(8, name) + _field(9, data.tobytes()))
        return name

    def node(
        self, op: str, *inputs: str, domain: str = "", **attributes: int | Sequence[int]
    ) -> str:
        """Append an operator of a domain with integer attributes; the name of its output."""
        name = f"n{len(self._nodes)}"
        message = b"".join(_field(1, i) for i in inputs) + _field(2, name) + _field(4, op)
        for key, value in attributes.items():
            if isinstance(value, int):
                attribute = _field(1, key) + _field(3, value) + _field(20, _ATTR_INT)
            else:
                ints = b"".join(_field(8, v) for v in value)
                attribute = _field(1, key) + ints + _field(20, _ATTR_INTS)
            message += _field(5, attribute)
        if domain:
            message += _field(7, domain)
            self._domains.add(domain)
        self._nodes.append(message)
        return name

    def cast_to_float(self, x: str) -> str:
        """Append a cast to float32; returns the name of its output."""
        return self.node("Cast", x, to=_FLOAT)

    def to_bytes(self, pixels: str, size: int, features: str, d: int) -> bytes:
        """The ONNX file: input ``pixels`` (n, size, size, 3) uint8, output ``features`` (n, d)."""
        graph = b"".join(_field(1, n) for n in self._nodes) + _field(2, "hyperpq")
        graph += b"".join(_field(5, t) for t in self._tensors)
        graph += _field(11, _value_info(pixels, _UINT8, ("n", size, size, 3)))
        graph += _field(12, _value_info(features, _FLOAT, ("n", d)))
        opsets = _field(8, _field(1, "") + _field(2, _OPSET))
        for domain in sorted(self._domains):
            opsets += _field(8, _field(1, domain) + _field(2, 1))
        return _field(1, _IR_VERSION) + _field(2, "hyperpq") + _field(7, graph) + opsets
