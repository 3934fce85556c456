"""`find`: the near-duplicates of an index of images.

All images are read once (`examine`), thresholds are learned on copies of a sample (`sampling`),
candidates come from codes and hashes (`candidates`), pairs of them are compared (`verify`), and
what belongs together is grouped (`groups`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.duplicates.calibration import Calibration
from hyperpq.duplicates.candidates import Candidates
from hyperpq.duplicates.evidence import opencv
from hyperpq.duplicates.examine import Examined, examine
from hyperpq.duplicates.grouping import Grouping, in_two_folders
from hyperpq.duplicates.groups import Group
from hyperpq.duplicates.sampling import Sampler
from hyperpq.duplicates.settings import Settings
from hyperpq.duplicates.verify import Verifier
from hyperpq.duplicates.work_file import WorkFile
from hyperpq.images.extract import ReadOptions, extract_features
from hyperpq.images.image_reader import ImageReader
from hyperpq.images.sources import Source
from hyperpq.progress import Progress, ProgressLike, as_progress
from hyperpq.utils.devices import default_threads
from hyperpq.utils.imports import need
from hyperpq.utils.validation import as_choice

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

# Part of the key of a calibration; counts up when a calibration would come out otherwise.
_CALIBRATION = 3


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes
    ----------
    groups : list of Group
        Groups of the same image, and then of similar shots.
    calibration : Calibration
        The thresholds, and how well they do.
    images : int
        Number of images that were read.
    compared : int
        Number of pairs that were compared.
    skipped : dict of bytes to str
        Path and reason of each image that could not be read.
    """

    groups: list[Group]
    calibration: Calibration
    images: int
    compared: int
    skipped: dict[bytes, str] = field(default_factory=dict)

    def of_level(self, level: str) -> Duplicates:
        """The same with only some groups: ``same``, ``similar`` or ``all``.

        Raises
        ------
        InvalidInputError
            If it is no such level.
        """
        as_choice(level, "level", ("same", "similar", "all"))
        kept = [one for one in self.groups if level == "all" or one.level.startswith(level)]
        return replace(self, groups=kept)


@dataclass(frozen=True)
class _Run:
    """The parts of a run."""

    reader: ImageReader
    view: IndexView
    settings: Settings
    work: WorkFile
    pool: ThreadPoolExecutor
    progress: Progress
    images: Examined

    @property
    def candidates(self) -> Candidates:
        s = self.settings
        return Candidates(self.view, self.images, self.features_of, s.k, s.where, s.threads)

    @property
    def verifier(self) -> Verifier:
        limit = self.reader.max_megapixels
        return Verifier(self.view, self.images, self.work, self.pool, limit)

    def encode(self, sources: Sequence[Source]) -> NDArray[np.float32]:
        """Features of images that can be read; zeros of others."""
        options = ReadOptions(self.settings.workers, self.reader.max_megapixels)
        network = self.reader.backbone
        found = extract_features(list(sources), network, options)
        out = np.zeros((len(sources), network.d), np.float32)
        out[found.rows] = found.plain
        return out

    def features_of(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of images of the index, as it keeps them or by their files."""
        if self.view.has_features:
            return self.view.features_of(ids)
        return self.encode(self.view.paths_of(ids))

    def calibration(self) -> Calibration:
        """The calibration of these images, which the work file may have."""
        s = self.settings
        sampler = Sampler(
            self.images,
            self.candidates,
            self.verifier,
            self.encode,
            self.pool,
            self.reader.max_megapixels,
            s.sample,
            s.seed,
        )
        # Recall depends on all images that are searched, and on what they are searched with.
        digest = hashlib.blake2b(digest_size=16)
        identity = self.reader.backbone_identity
        codes = self.view.codes_of(self.images.ids)
        for part in (
            json.dumps([_CALIBRATION, s.k, s.sample, s.seed, s.where, identity], sort_keys=True),
            self.images.keys.tobytes(),
            codes.tobytes(),
        ):
            digest.update(part.encode() if isinstance(part, str) else part)
        key = digest.digest()
        known = self.work.calibration(key)
        if known is not None:
            return Calibration.from_dict(known)
        made = sampler.calibrate(self.progress)
        self.work.add_calibration(key, made.to_dict())
        return made


def default_work_file(index_path: str | os.PathLike[str]) -> Path:
    """Where `hyperpq duplicates` keeps what it has found out: beside the index."""
    path = Path(os.path.abspath(index_path))
    return path.with_name(path.name + ".duplicates")


def find(
    images: ImageReader,
    settings: Settings | None = None,
    *,
    work: Path | str | None = None,
    progress: ProgressLike = None,
) -> Duplicates:
    """Find near-duplicates among the images of an index.

    Parameters
    ----------
    images : ImageIndex
        The index; it is not changed.
    settings : Settings, optional
        What is looked for, and what is kept.
    work : path-like, optional
        A file that keeps what was found out, so that a run that was interrupted goes on, and the
        next one is quick, see `default_work_file`. Without it, everything is found out anew.
    progress : Progress or bool, optional
        Where to report progress; True draws bars on stderr.

    Returns
    -------
    Duplicates

    Raises
    ------
    MissingDependencyError
        If OpenCV or imagehash is not installed (extra ``duplicates``).
    InvalidInputError
        If a condition is not valid.
    IndexLockedError, StoreError
        If the work file cannot be used.

    Notes
    -----
    Memory holds 32 bytes of each image, 16 of each pair of candidates, and what is compared at the
    time.
    """
    settings = settings or Settings()
    with _running(images, settings, work, as_progress(progress)) as run:
        calibration = run.calibration()
        pairs = run.candidates.pairs(calibration.gate, run.progress)
        if settings.ignore_within_folder:
            pairs = pairs[in_two_folders(run.view, run.images, pairs)]
        verifier = run.verifier
        grouping = Grouping(verifier, settings, calibration, run.progress)
        groups = grouping.groups(verifier.stream(pairs, run.progress))
        return Duplicates(groups, calibration, len(run.images), len(pairs), run.images.skipped)


def calibrate(
    images: ImageReader,
    settings: Settings | None = None,
    *,
    work: Path | str | None = None,
    progress: ProgressLike = None,
) -> Calibration:
    """Learn the thresholds for an index only; parameters and errors as of `find`."""
    settings = settings or Settings()
    with _running(images, settings, work, as_progress(progress)) as run:
        return run.calibration()


@contextmanager
def _running(
    reader: ImageReader, settings: Settings, work: Path | str | None, progress: Progress
) -> Iterator[_Run]:
    """The parts of a run, with all images read."""
    cv2, view = opencv(), reader.index.view()
    need("imagehash", "duplicates", "near-duplicates")
    # Before the work file: a condition that is not valid makes no file.
    ids = view.select(where=settings.where)
    threads = settings.threads or default_threads()
    before = cv2.getNumThreads()
    # Pairs are compared in threads of our own.
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="duplicates")
    try:
        with WorkFile(None if work is None else Path(work)) as file:
            found = examine(view, ids, file, pool, reader.max_megapixels, progress)
            yield _Run(reader, view, settings, file, pool, progress, found)
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(before)
