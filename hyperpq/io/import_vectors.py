"""`import_vectors`: the vectors of files into an index, which is trained first if it is new."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from hyperpq.errors import IndexNotFoundError, InvalidInputError, StoreError
from hyperpq.images.metadata import ImageMetadata
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.index.learning import LEARNING, TRAIN_SIZE
from hyperpq.index.streamed import StreamedRows
from hyperpq.io.import_record import ImportedFile, add_imports, read_imports
from hyperpq.io.train_vectors import PathLike, TrainingChoices, new_index
from hyperpq.io.vector_files import (
    VectorFile,
    batch_rows,
    check_fit,
    load_array,
    open_vectors,
    sample_rows,
)
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.imports import need_torch
from hyperpq.utils.validation import as_ids

if TYPE_CHECKING:
    from typing_extensions import Unpack

Repeated: TypeAlias = Literal["refuse", "skip", "add"]
"""What is done with vectors that were imported before."""


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
    skipped : int
        Number of vectors that were left out, as they had been imported before.
    """

    index: HiHPQIndex
    added: int
    trained_on: int
    skipped: int = 0


def import_vectors(
    paths: Sequence[PathLike],
    index_path: PathLike,
    *,
    create: bool = True,
    dataset: str | None = None,
    ids: PathLike | None = None,
    repeated: Repeated = "refuse",
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
    repeated : {"refuse", "skip", "add"}
        What is done with a file without ``ids`` whose vectors were imported before, from whatever
        file, and are still there: an error, nothing, or the vectors are added once more.
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
    # Files first: a wrong path is an error before anything heavy is loaded.
    files = _open_files(paths, dataset)
    index = _existing(Path(index_path), device, create)
    # Compared with None, since an empty index is false.
    if index is not None and training:
        words = ", ".join(sorted(training))
        raise InvalidInputError(
            f"{words} cannot be chosen for {index_path}, which is trained already; leave these "
            "options out, or name a new index."
        )
    if index is None:
        need_torch(LEARNING)
    else:
        check_fit(files, index)
    total, labels = sum(file.shape[0] for file in files), None
    if ids is not None:
        labels = as_ids(load_array(Path(ids), 1, "(n,)"), total)
    if index is not None:
        index.collection.new_ids(labels, total)
    elif not total:
        raise InvalidInputError(
            f"{', '.join(map(str, paths))}: there are no vectors; expected vectors to train on."
        )
    checksums = [xxhash.xxh3_128() for _ in files]
    with progress.phase("check", total, "vectors") as phase:
        size = TRAIN_SIZE if index is None else 0
        sample = sample_rows(
            files,
            size,
            training.get("seed", 0),
            phase.advance,
            lambda number, batch: checksums[number].update(np.ascontiguousarray(batch).data),
        )
    parts = [
        _Part(file, checksum.hexdigest()) for file, checksum in zip(files, checksums, strict=True)
    ]
    if labels is None and repeated != "add":
        parts = [_new_part(part, index, parts[:i], repeated) for i, part in enumerate(parts)]
    if index is None:
        index = new_index(sample, index_path, device=device, progress=progress, **training)
    new = sum(part.n for part in parts)
    with progress.phase("add", new, "vectors") as phase:
        _add(index, parts, labels, phase.advance)
    index.collection.store_recall()
    return ImportReport(index, new, len(sample), total - new)


@dataclass(frozen=True)
class _Part:
    """The vectors of a file from row ``start`` on, which are to be added."""

    file: VectorFile
    checksum: str
    start: int = 0

    @property
    def n(self) -> int:
        return self.file.shape[0] - self.start

    def batches(self) -> Iterator[NDArray[np.float32]]:
        done = 0
        for batch in self.file.batches(batch_rows(self.file.shape[1])):
            new = batch[max(0, self.start - done) :]
            done += len(batch)
            if len(new):
                yield new


def _new_part(
    part: _Part, index: HiHPQIndex | None, others: Sequence[_Part], repeated: Repeated
) -> _Part:
    """The part of a file that was not imported before.

    Raises
    ------
    InvalidInputError
        If there are vectors that were, and they are to be refused.
    """
    former: list[ImportedFile] = []
    if index is not None:
        rows = index.collection
        same = [file for file in read_imports(rows) if file.checksum == part.checksum]
        former = [file for file in same if file.is_in(rows)]
    again = [other for other in others if other.checksum == part.checksum]
    if not part.file.shape[0] or not (former or again):
        return part
    if repeated == "skip":
        start = part.file.shape[0] if again else max(i.added for i in former)
        return replace(part, start=start)
    name = part.file.path
    if again:
        found = f"has the vectors of {again[0].file.path}, which is given, too"
    else:
        first = former[0]
        how_many = "" if first.added == first.vectors else f"the first {first.added:,} of "
        found = (
            f"has vectors that are in the index: {how_many}those of {first.name} have the ids "
            f"{first.first_id:,} to {first.last_id:,}"
        )
    raise InvalidInputError(
        f"{name} {found}; nothing was changed; leave such files out with `hyperpq import "
        "--if-new` (repeated='skip'), or add the vectors once more with `hyperpq import --again` "
        "(repeated='add')."
    )


def _open_files(paths: Sequence[PathLike], dataset: str | None) -> list[VectorFile]:
    """Open files of vectors of one width."""
    if not paths:
        raise InvalidInputError("no file of vectors was given; expected at least one.")
    files: list[VectorFile] = []
    for path in paths:
        file = open_vectors(path, dataset=dataset)
        if files:
            file.check_width(files[0].shape[1], str(files[0].path))
        files.append(file)
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
    parts: Sequence[_Part],
    labels: NDArray[np.int64] | None,
    advance: Callable[[int], object],
) -> None:
    """Encode vectors and add them, one commit for each segment."""
    rows = StreamedRows(index, labels)
    try:
        for part in parts:
            for batch in part.batches():
                rows.append(batch)
                advance(len(batch))
        rows.commit()
    except StoreError as error:
        reason = str(error).removesuffix(".")
        stopped = type(error)(f"{reason}; {rows.done:,} vectors were added to {index.path}.")
        stopped.errno = error.errno
        raise stopped from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{rows.done:,} vectors were added to {index.path}") from error
    finally:
        # Where the disk is full, what stopped the import is what is reported.
        with contextlib.suppress(StoreError):
            _note(index, parts, rows)


def _note(index: HiHPQIndex, parts: Sequence[_Part], rows: StreamedRows) -> None:
    """Note which vectors of which files were added with which ids."""
    start, files = 0, []
    for part in parts:
        stop = min(start + part.n, rows.done)
        if stop > start:
            added, ids = part.start + stop - start, rows.extent(start, stop)
            name = str(part.file.path)
            files.append(ImportedFile(part.checksum, part.file.shape[0], added, *ids, name))
        start = stop
    if files:
        add_imports(index.collection, files)
