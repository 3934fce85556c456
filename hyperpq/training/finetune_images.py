"""The images that a network is fine-tuned on, and how they reach the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.errors import InvalidInputError

T = TypeVar("T")


class TrainingImages(Protocol):
    """Images by row, wherever they are: in memory, or decoded from disk when they are asked for."""

    def __len__(self) -> int:
        """Number of images."""

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Squares of some images.

        Parameters
        ----------
        rows : ndarray, shape (b,), int64
            Rows, possibly with repetitions. One background thread asks for a batch at a time.

        Returns
        -------
        ndarray, shape (b, S, S, 3), uint8
            RGB. S is the same for all images, and may be another side than that of the network:
            crops and whole images are resized on the device.
        """


class ArrayImages:
    """Images in an array.

    Parameters
    ----------
    array : ndarray, shape (n, S, S, 3), uint8
        Squares in RGB; it may be memory-mapped.
    """

    def __init__(self, array: NDArray[np.uint8]) -> None:
        check_squares(array, array.shape[0])
        self._array = array

    def __len__(self) -> int:
        """Number of images."""
        return len(self._array)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Squares (b, S, S, 3) of some images."""
        return np.ascontiguousarray(self._array[rows])


def check_squares(pixels: NDArray[np.uint8], count: int) -> None:
    """Raise `InvalidInputError` unless there are ``count`` squares."""
    shape = pixels.shape
    square = pixels.ndim == 4 and shape[0] == count and shape[1] == shape[2] and shape[3] == 3
    if pixels.dtype != np.uint8 or not square:
        raise InvalidInputError(
            f"pixels have shape {shape} and dtype {pixels.dtype}; expected ({count}, S, S, 3) and "
            "uint8."
        )


def load_squares(images: TrainingImages, rows: NDArray[np.int64], *, pinned: bool) -> Tensor:
    """Checked squares (b, S, S, 3), uint8, on the CPU, in pinned memory for a copy to a GPU."""
    pixels = images.pixels(rows)
    check_squares(pixels, len(rows))
    return pinned_if(torch.from_numpy(np.require(pixels, requirements=["C", "W"])), pinned)


def pinned_if(tensor: Tensor, pinned: bool) -> Tensor:
    """A tensor on the CPU, in pinned memory if a GPU is to get it."""
    return tensor.pin_memory() if pinned else tensor


def ahead(jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Results of jobs in their order, each done by another thread while the last one is used."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for job in jobs:
            following = thread.submit(job)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
