"""`encode_vectors`: codes of the vectors in files, without adding them to an index."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.io.vector_files import open_vectors


def encode_vectors(
    paths: Sequence[str | os.PathLike[str]],
    index_path: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    device: str = "auto",
) -> list[NDArray[np.uint8]]:
    """Encode the vectors of files with the codec of an index.

    Parameters
    ----------
    paths : sequence of path-like
        Files of vectors, see `open_vectors`.
    index_path : path-like
        Directory of the index.
    dataset : str, optional
        See `open_vectors`.
    device : str
        See `HiHPQIndex`.

    Returns
    -------
    list of ndarray, each shape (rows, code_size), uint8
        Codes in batches, in the order of the vectors.

    Raises
    ------
    InvalidInputError
        If a file is not valid.
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    """
    index = HiHPQIndex.load(index_path, device=device)
    files = [open_vectors(path, dataset=dataset, d=index.d) for path in paths]
    return [index.encode(batch) for file in files for batch in file.batches()]
