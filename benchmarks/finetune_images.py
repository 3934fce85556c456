"""The images of the protocols of CIFAR-10 as arrays, for `benchmarks.finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from hyperpq.datasets.decode import open_image
from hyperpq.datasets.preprocessing import Preprocessing, to_pixels
from hyperpq.datasets.protocols import Protocol, Split, cifar10_protocol
from hyperpq.training import ArrayImages

# Side of the images of CIFAR-10.
_SIDE = 32


@dataclass(frozen=True)
class Images:
    """The images of a protocol in memory.

    Attributes
    ----------
    protocol : Protocol
        Labels, and the k of mAP@k.
    train, query, database : ArrayImages
        Its three parts.
    """

    protocol: Protocol
    train: ArrayImages
    query: ArrayImages
    database: ArrayImages

    @classmethod
    def load(cls, data: Path, which: str, limit: int | None, work: Path) -> Images:
        """Read the images of a protocol, and keep them as arrays in the working folder."""
        protocol = cifar10_protocol(data, "I" if limit else which)
        if limit:
            protocol = replace(
                protocol,
                train=_some(protocol.database, limit, 0),
                query=_some(protocol.query, limit // 4, 0),
                database=_some(protocol.database, limit, 1),
            )
        parts = (protocol.train, protocol.query, protocol.database)
        return cls(protocol, *(ArrayImages(_squares(part, work)) for part in parts))


def _some(split: Split, n: int, first: int) -> Split:
    """About n images of a split, evenly over the classes, as they are sorted by class."""
    return split.take(np.arange(first, len(split), max(1, len(split) // n)))


def _squares(split: Split, work: Path) -> NDArray[np.uint8]:
    """The images of a split as an array (n, 32, 32, 3)."""
    digest = _digest(split.paths)
    file = work / f"images-{digest}.npy"
    if not file.exists():
        prep = Preprocessing(size=_SIDE)
        out = np.empty((len(split), _SIDE, _SIDE, 3), np.uint8)
        for row, path in enumerate(split.paths):
            to_pixels(open_image(path), prep, out[row])
        work.mkdir(parents=True, exist_ok=True)
        np.save(file, out)
    found: NDArray[np.uint8] = np.load(file, allow_pickle=False)
    return found


def _digest(paths: Sequence[bytes]) -> str:
    return str(xxhash.xxh3_128_hexdigest(b"\n".join(paths)))
