"""`Settings`: what is looked for, and what is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from hyperpq.duplicates.groups import KEEP, Keep
from hyperpq.errors import InvalidInputError
from hyperpq.images.decoders import WorkersLike
from hyperpq.utils.validation import as_choice, as_count

_SMALLEST_SAMPLE = 2


@dataclass(frozen=True)
class Settings:
    """What is looked for, and what is kept.

    Attributes
    ----------
    keep : {"largest", "oldest", "path"}
        Which image of a group is kept: that with most pixels (of several the oldest), the oldest,
        or the first path.
    reference : sequence of path-like
        Folders whose images are kept in any case.
    ignore_within_folder : bool
        Whether two images in one folder never belong together.
    where : str, optional
        Condition that images fulfil, see `Where`.
    k : int
        Number of neighbours of each image that are candidates, by codes and by hashes.
    sample : int
        Number of images that copies are made of to learn the thresholds.
    seed : int
        Seed of the sample and of the copies.
    threads : int, optional
        Number of threads, one per core by default; it does not change the result.
    workers : int or str
        How images are decoded for the network, see `ImageIndex.query`.

    Raises
    ------
    InvalidInputError
        If a value is not possible.
    """

    keep: Keep = "largest"
    reference: Sequence[str | os.PathLike[str]] = ()
    ignore_within_folder: bool = False
    where: str | None = None
    k: int = 10
    sample: int = 100
    seed: int = 0
    threads: int | None = None
    workers: WorkersLike = 0

    def __post_init__(self) -> None:
        as_choice(self.keep, "keep", KEEP)
        as_count(self.k, "k", 1, 1000)
        as_count(self.sample, "sample", _SMALLEST_SAMPLE, 100_000)
        as_count(self.seed, "seed", 0)
        if self.threads is not None:
            as_count(self.threads, "threads")
        for folder in self.reference:
            if not os.path.isdir(folder):
                raise InvalidInputError(
                    f"{os.fspath(folder)} is no folder; expected a folder of images that are kept."
                )

    @property
    def reference_folders(self) -> list[bytes]:
        """The reference folders as absolute paths."""
        return [os.path.abspath(os.fsencode(folder)) for folder in self.reference]
