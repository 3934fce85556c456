"""Codes of vectors in files, without adding them to an index, and files of codes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.io.vector_files import check_fit, open_vectors
from hyperpq.utils.output_files import written_aside


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
    files = [open_vectors(path, dataset=dataset) for path in paths]
    index = HiHPQIndex.load(index_path, device=device)
    check_fit(files, index)
    return [index.encode(batch) for file in files for batch in file.batches()]


def save_codes(path: Path, batches: Sequence[NDArray[np.uint8]]) -> None:
    """Write codes (n, code_size), given in batches, as one .npy file.

    Raises
    ------
    StoreError
        If the system refuses; a file at ``path`` is as it was.
    """
    with written_aside(path) as aside, open(aside, "xb") as file:
        np.save(file, np.concatenate(batches), allow_pickle=False)
