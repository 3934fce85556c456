"""`import_vectors`: the vectors of files into an index, which is trained first if it is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import IndexNotFoundError, InvalidInputError, StoreError
from hyperpq.images.metadata import ImageMetadata
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.io.train_vectors import PathLike, TrainingChoices, new_index
from hyperpq.io.vector_files import VectorFile, batch_rows, load_array, open_vectors, sample_rows
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.validation import as_ids

if TYPE_CHECKING:
    from typing_extensions import Unpack

TRAIN_SIZE = 25_000
"""Largest number of vectors that a new index is trained on."""
SEGMENT_SIZE = 1 << 20
"""Vectors of one segment and one commit, at least; only the last has fewer."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    index : HiHPQIndex
        The index on disk.
    added : int
        Number of vectors added.
    trained_on : int
        Number of vectors that a new index was trained on; 0 for an existing index.
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
    progress: ProgressLike = None,
    **training: Unpack[TrainingChoices],
) -> ImportReport:
    """Add the vectors of files to an index.

    All vectors are read and checked before anything changes. Then each 1,048,576 vectors are one
    commit: an import that is interrupted keeps the vectors that were added before.

    Parameters
    ----------
    paths : sequence of path-like
        Files of vectors of equal width, see `open_vectors`.
    index_path : path-like
        Directory of the index.
    create : bool
        Whether to train and create an index if there is none.
    dataset : str, optional
        See `open_vectors`.
    ids : path-like, optional
        .npy file with the ids of all vectors, in the order of the files. By default ids continue
        from the highest id of the index.
    device : str
        See `HiHPQIndex`.
    progress : Progress or bool, optional
        Where to report progress.
    **training
        Options of a new index, see `TrainingChoices`.

    Returns
    -------
    ImportReport

    Raises
    ------
    InvalidInputError
        If files, vectors, ids or options are not valid; nothing was changed.
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    MissingDependencyError
        If a file is a Parquet file and pyarrow is not installed.
    StoreError
        If the system refuses to write; the message has the number of vectors that were added.
    """
    progress = as_progress(progress)
    index = _existing(Path(index_path), device, create)
    # Compared with None, since an empty index is false.
    if index is not None and training:
        words = ", ".join(sorted(training))
        raise InvalidInputError(
            f"{words} cannot be chosen for {index_path}, which is trained already; leave these "
            "options out, or name a new index."
        )
    files = _open_files(paths, dataset, None if index is None else index.d)
    total, labels = sum(file.shape[0] for file in files), None
    if ids is not None:
        labels = as_ids(load_array(Path(ids), 1, "(n,)"), total)
    if index is not None:
        index.collection.new_ids(labels, total)
    elif not total:
        raise InvalidInputError(
            f"{', '.join(map(str, paths))}: there are no vectors; expected vectors to train on."
        )
    with progress.phase("check", total, "vectors") as phase:
        size = TRAIN_SIZE if index is None else 0
        sample = sample_rows(files, size, training.get("seed", 0), phase.advance)
    if index is None:
        index = new_index(sample, index_path, device=device, progress=progress, **training)
    with progress.phase("add", total, "vectors") as phase:
        _add(index, files, labels, phase.advance)
    return ImportReport(index, total, len(sample))


def _open_files(paths: Sequence[PathLike], dataset: str | None, d: int | None) -> list[VectorFile]:
    """Open files of vectors of one width: ``d``, or that of the first file."""
    if not paths:
        raise InvalidInputError("no file of vectors was given; expected at least one.")
    files: list[VectorFile] = []
    for path in paths:
        width = d if d is not None or not files else files[0].shape[1]
        files.append(open_vectors(path, dataset=dataset, d=width))
    return files


def _existing(path: Path, device: str, create: bool) -> HiHPQIndex | None:
    """The index of vectors at a path; None if there is none and one can be created."""
    try:
        index = HiHPQIndex.load(path, device=device)
    except IndexNotFoundError:
        free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if create and free:
            return None
        raise
    if ImageMetadata.from_index(index.metadata) is not None:
        raise InvalidInputError(
            f"{path} is an index of images; expected an index of vectors; name another --index."
        )
    return index


def _add(
    index: HiHPQIndex,
    files: Sequence[VectorFile],
    labels: NDArray[np.int64] | None,
    advance: Callable[[int], object],
) -> None:
    """Encode the vectors of files and add them, one commit for each segment."""
    done = 0
    codes: list[NDArray[np.uint8]] = []

    def commit() -> None:
        nonlocal done
        n = sum(map(len, codes))
        if n:
            own = None if labels is None else labels[done:][:n]
            index.collection.add(np.concatenate(codes), own)
            codes.clear()
            done += n

    try:
        for file in files:
            for batch in file.batches(batch_rows(index.d)):
                codes.append(index.encode(batch))
                advance(len(batch))
                if sum(map(len, codes)) >= SEGMENT_SIZE:
                    commit()
        commit()
    except StoreError as error:
        reason = str(error).removesuffix(".")
        stopped = type(error)(f"{reason}; {done:,} vectors were added to {index.path}.")
        stopped.errno = error.errno
        raise stopped from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{done:,} vectors were added to {index.path}") from error
