"""`search_vectors`: the nearest vectors of an index to each vector in files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpq.filters.where import Where
from hyperpq.images.image_reader import ImageReader
from hyperpq.images.metadata import ImageMetadata
from hyperpq.images.results import Answers
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.index.recall import as_recall, check_one
from hyperpq.index.refine import Refine, as_refine
from hyperpq.io.vector_files import batch_rows, check_fit, open_vectors
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.validation import as_count

# Results of a batch: their distances and ids take 48 MiB.
_BATCH_RESULTS = 1 << 22
# Results with paths and attributes take a kilobyte each.
_BATCH_IMAGES = 1 << 16


@dataclass(frozen=True, eq=False)
class FoundVectors:
    """Results of consecutive queries.

    Attributes
    ----------
    start : int
        Number of the first query, counted over all files from 0.
    D : ndarray, shape (nq, k), float32
        Distances, ascending; +inf where there are fewer than k results.
    I : ndarray, shape (nq, k), int64
        Ids; -1 where there are fewer than k results.
    answers : Answers, optional
        The same results with paths and similarities, from an index of images.
    """

    start: int
    D: NDArray[np.float32]
    I: NDArray[np.int64]  # noqa: E741
    answers: Answers | None = None

    @classmethod
    def of_answers(cls, start: int, answers: Answers, k: int) -> FoundVectors:
        """Answers of an index of images to queries from number ``start`` on."""
        D = np.full((len(answers), k), np.inf, np.float32)
        I = np.full((len(answers), k), -1, np.int64)  # noqa: E741
        for row, answer in enumerate(answers):
            n = len(answer.results)
            D[row, :n] = [result.distance for result in answer.results]
            I[row, :n] = [result.id for result in answer.results]
        return cls(start, D, I, answers)


def search_vectors(
    paths: Sequence[str | os.PathLike[str]],
    index_path: str | os.PathLike[str],
    k: int,
    *,
    dataset: str | None = None,
    where: str | None = None,
    refine: Refine = None,
    nprobe: int | None = None,
    recall: float | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: ProgressLike = None,
) -> Iterator[FoundVectors]:
    """Search an index for the vectors in files, batch by batch.

    An index of images answers as to images, see `ImageIndex.query`.

    Parameters
    ----------
    paths : sequence of path-like
        Files of vectors, see `open_vectors`.
    index_path : path-like
        Directory of the index; of an index of images the vectors are features of its network.
    k : int
        Number of results for each query.
    dataset : str, optional
        See `open_vectors`.
    where : str, optional
        Condition that the results fulfil, see `Where`.
    refine : int or "auto", optional
        See `HiHPQIndex.search`, and `ImageIndex.query` for an index of images.
    nprobe : int, optional
        See `HiHPQIndex.search`.
    recall : float, optional
        See `HiHPQIndex.search`.
    threads : int, optional
        See `HiHPQIndex.search`.
    device : str
        See `HiHPQIndex`.
    progress : Progress or bool, optional
        Where to report progress.

    Yields
    ------
    FoundVectors
        At least one batch, which may be without queries.

    Raises
    ------
    InvalidInputError
        If a file or an argument is not valid. All but the values of the vectors is checked before
        the first search.
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    """
    k = as_count(k, "k")
    as_refine(refine)
    as_recall(recall)
    check_one(nprobe, recall)
    condition = None if where is None else Where(where)
    # Files first: a wrong path is an error before anything heavy is loaded.
    files = [open_vectors(path, dataset=dataset) for path in paths]
    index = HiHPQIndex.load(index_path, device=device)
    check_fit(files, index)
    is_of_images = ImageMetadata.from_index(index.metadata) is not None
    images = ImageReader(index) if is_of_images else None
    total, start = sum(file.shape[0] for file in files), 0
    # A file without vectors has a batch without rows, which is left out if there are others.
    files = [file for file in files if file.shape[0]] or files[:1]
    most = _BATCH_RESULTS if images is None else _BATCH_IMAGES
    rows = max(1, min(batch_rows(index.d), most // k))
    with as_progress(progress).phase("search", total, "vectors") as phase:
        for file in files:
            for batch in file.batches(rows):
                if images is None:
                    D, I = index.search(  # noqa: E741
                        batch,
                        k,
                        where=condition,
                        refine=refine,
                        nprobe=nprobe,
                        recall=recall,
                        threads=threads,
                    )
                    yield FoundVectors(start, D, I)
                else:
                    answers = images.query(
                        vectors=batch,
                        k=k,
                        where=condition,
                        refine=refine,
                        nprobe=nprobe,
                        recall=recall,
                        threads=threads,
                    )
                    yield FoundVectors.of_answers(start, answers, k)
                start += len(batch)
                phase.advance(len(batch))
