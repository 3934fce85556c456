"""Files of vectors into an index, block by block; a new one learns from a sample of them first."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import IndexNotFoundError, InvalidInputError, StoreError
from hyperpq.images.build.options import METADATA_KEY, M_of_bits
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.io.vector_files import VectorFile, load_array, open_vectors, rows_at_once, sample_rows
from hyperpq.progress import Progress, SilentProgress
from hyperpq.store import Rows
from hyperpq.utils.validation import as_ids

TRAIN_SIZE = 25_000
"""Vectors that a new index learns from, at most."""
# Vectors of one commit and one shard.
_GROUP = 1 << 20

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes
    ----------
    index : HiHPQIndex
        On disk.
    added : int
        Vectors.
    trained_on : int
        Vectors that a new index learned from; 0 if it was there.
    """

    index: HiHPQIndex
    added: int
    trained_on: int


def import_vectors(
    paths: Sequence[PathLike],
    index_path: PathLike,
    *,
    create: bool = True,
    dataset: str | None = None,
    ids: PathLike | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **training: Any,
) -> Imported:
    """Add the vectors of files to an index.

    Every vector is read and checked before anything changes. Then each 1,048,576 are one commit:
    what a kill or a full disk interrupts keeps those that were added.

    Parameters
    ----------
    paths : sequence of path-like
        Files of vectors of one width, see `open_vectors`.
    index_path : path-like
        Directory of the index.
    create : bool
        Whether a new index is learned and made where there is none.
    dataset : str, optional
        See `open_vectors`.
    ids : path-like, optional
        .npy file with the ids of all vectors, in the order of the files; counted on from the
        index's highest unless given.
    device : str
        See `HiHPQIndex`.
    progress : Progress, optional
        Where to report.
    **training
        Of a new index: ``bits``, ``metric``, and what `HiHPQIndex.train` takes.

    Raises
    ------
    InvalidInputError
        Bad files, vectors, ids or options; nothing was changed.
    IndexNotFoundError, CorruptIndexError, FormatVersionError, MissingDependencyError
    StoreError
        The disk refused; the message says how many vectors were added.
    """
    progress = progress or SilentProgress()
    index = _existing(Path(index_path), device, create)
    # Compared with None: an empty index is false.
    if index is not None and training:
        raise InvalidInputError(
            f"{index_path} is trained already, so {', '.join(sorted(training))} can't be chosen "
            "any more; leave that out, or name a new index."
        )
    files = open_files(paths, dataset, None if index is None else index.d)
    total, labels = sum(file.shape[0] for file in files), None
    if ids is not None:
        labels = as_ids(load_array(Path(ids), 1, "(n,)"), total)
    if index is not None:
        index.new_ids(labels, total)
    with progress.phase("check", total, "vectors") as phase:
        most = TRAIN_SIZE if index is None else 0
        sample = sample_rows(files, most, training.get("seed", 0), phase.advance)
    if index is None:
        index = _learned(sample, Path(index_path), device, progress, **training)
    with progress.phase("add", total, "vectors") as phase:
        _add(index, files, labels, phase.advance)
    return Imported(index, total, len(sample))


def open_files(paths: Sequence[PathLike], dataset: str | None, d: int | None) -> list[VectorFile]:
    """Files of vectors of one width: ``d``, or that of the first file."""
    if not paths:
        raise InvalidInputError("no file of vectors was given; expected at least one.")
    files: list[VectorFile] = []
    for path in paths:
        width = d if d is not None or not files else files[0].shape[1]
        files.append(open_vectors(path, dataset=dataset, d=width))
    return files


def _existing(path: Path, device: str, create: bool) -> HiHPQIndex | None:
    """The index of vectors at a path; None if a new one can be made there."""
    try:
        index = HiHPQIndex.load(path, device=device)
    except IndexNotFoundError:
        free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if create and free:
            return None
        raise
    if METADATA_KEY in index.metadata:
        raise InvalidInputError(f"{path} is an index of images, not of vectors; add images to it.")
    return index


def _learned(
    sample: NDArray[np.float32],
    path: Path,
    device: str,
    progress: Progress,
    bits: int = 64,
    metric: str = "l1",
    **training: Any,
) -> HiHPQIndex:
    """A new index at a path, trained and empty."""
    index = HiHPQIndex(sample.shape[1], M_of_bits(bits), metric=metric, device=device)
    index.train(sample, progress=progress, **training)
    index.save(path)
    return index


def _add(
    index: HiHPQIndex,
    files: Sequence[VectorFile],
    labels: NDArray[np.int64] | None,
    advance: Callable[[int], object],
) -> None:
    """Encode the vectors of files and append them, a group at a time."""
    first, done = index.next_id, 0
    codes: list[NDArray[np.uint8]] = []

    def commit() -> None:
        nonlocal done
        n = sum(map(len, codes))
        if n:
            own = np.arange(first + done, first + done + n) if labels is None else labels[done:][:n]
            index.append(Rows(np.concatenate(codes), own))
            codes.clear()
            done += n

    try:
        for file in files:
            for block in file.blocks(rows_at_once(index.d)):
                codes.append(index.encode(block))
                advance(len(block))
                if sum(map(len, codes)) >= _GROUP:
                    commit()
        commit()
    except (StoreError, KeyboardInterrupt) as error:
        said = f"{error}; " if str(error) else ""
        raise type(error)(f"{said}{done:,} vectors were added to {index.path}") from error
