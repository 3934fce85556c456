"""`view_passes`: the augmented views of decoded images, made on the device of a network.

A file is then decoded to two squares, its own and that of the whole image, however many views it
has. The views have the distribution of those that Pillow makes of the image (`DeviceViews`), with
one difference: a crop of a large image is cut out of the square, so that it has less detail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from hyperpq.datasets.device_views import DeviceViews
from hyperpq.images.sources import Source, path_of

if TYPE_CHECKING:
    from hyperpq.images.decoding import ReadImage


def view_passes(
    squares: NDArray[np.uint8],
    sources: Sequence[Source],
    read: Sequence[ReadImage],
    views: DeviceViews,
    n_views: int,
    device: str,
) -> Iterator[NDArray[np.uint8]]:
    """The views of some images, one of each at a time.

    Parameters
    ----------
    squares : ndarray, shape (n, S, S, 3), uint8
        The whole images.
    sources : sequence of n sources
        Of the images. Views depend on the names of their files only, so that a folder can move.
    read : sequence of n ReadImage
        Their sizes.
    views : DeviceViews
        What is made.
    n_views : int
        How many views of each image.
    device : str
        ``cpu`` or ``cuda:N``.

    Yields
    ------
    ndarray, shape (n, size, size, 3), uint8
    """
    import torch

    names = (os.path.basename(path_of(source)) for source in sources)
    rows = np.array([xxhash.xxh3_64_intdigest(name) >> 1 for name in names], np.int64)
    sizes = np.array([image[:2] for image in read], np.int32).reshape(-1, 2)
    there = torch.from_numpy(np.ascontiguousarray(squares)).to(device)
    for number in range(n_views):
        made = views(there, rows, number, sizes).round().to(torch.uint8)
        # The network takes pixels of the host; the copies take little beside its own time.
        yield made.permute(0, 2, 3, 1).contiguous().cpu().numpy()
