"""`Kept`: what was computed from tensors, until one of them changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Kept(Generic[T]):
    """A value that is computed from tensors once, and again after one of them has changed.

    The values of the tensors are compared with a copy. PyTorch's count of changes is no sign: fused
    optimisers and ``tensor.data`` change a tensor without it, and tensors made in inference mode
    have none. A copy of this object, and a pickle, are without the value.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[Tensor, ...], T] | None = None

    def get(self, sources: tuple[Tensor, ...], make: Callable[[], T]) -> T:
        """The value that ``make`` computes from the tensors ``sources``, and from nothing else."""
        kept = self._kept
        if kept is not None and all(map(_is_same, kept[0], sources)):
            return kept[1]
        copies = tuple(source.detach().clone() for source in sources)
        value = make()
        self._kept = (copies, value)
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
