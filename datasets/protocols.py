"""Evaluation protocols: splits into training set, queries and database, and what is relevant.

The data sets here are folders of class folders; data sets with several labels per image are in
`hyperpq.datasets.multilabel`. Every random choice depends only on the sorted names and a seed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.folder import list_images
from hyperpq.datasets.listing import ImageFile
from hyperpq.errors import DatasetError, InvalidInputError

_CIFAR10_HELP = (
    "put CIFAR-10 as images in {root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg, ten class "
    "folders each"
)


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Parameters
    ----------
    paths : list of bytes
        Absolute paths of n images.
    labels : ndarray, shape (n,), int64, or shape (n, L), bool
        The class of each image as a position in ``Protocol.names``, or, for each of the L
        ``Protocol.names``, whether the image has that label.
    """

    paths: list[bytes]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> Split:
        """The images of the given rows, in the given order."""
        return Split([self.paths[row] for row in rows.tolist()], self.labels[rows])


@dataclass(frozen=True)
class Protocol:
    """One protocol to measure retrieval.

    Parameters
    ----------
    name : str
        Name for reports.
    names : list of str
        Names of the classes or labels, sorted.
    train, query, database : Split
        Training images (whose labels are not used in training), queries, and the images that
        are searched.
    top : int
        Published results are mAP@top.
    missing : int
        Number of images that the data set names but that are not on disk; they are in no split.
    """

    name: str
    names: list[str]
    train: Split
    query: Split
    database: Split
    top: int
    missing: int = 0

    def relevant(
        self, queries: slice | NDArray[np.int64], found: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether results have the class of the query, or share a label with it.

        Parameters
        ----------
        queries : slice or ndarray, shape (nq,), int64
            Rows of ``query``.
        found : ndarray, shape (nq, k), int64
            Rows of ``database`` found for each query; -1 means no image.

        Returns
        -------
        ndarray, shape (nq, k), bool
            False for -1.
        """
        if self.query.labels.ndim == 1:
            same = self.database.labels[found] == self.query.labels[queries, None]
        else:
            # Eight labels per byte, as k is in the thousands and nq * k rows are gathered.
            stored = np.packbits(self.database.labels, axis=1)
            wanted = np.packbits(self.query.labels[queries], axis=1)
            same = (stored[found] & wanted[:, None]).any(axis=2)
        return same & (found >= 0)


def class_folders(
    root: str | Path, *, depth: int | None = None
) -> tuple[list[ImageFile], np.ndarray, list[str]]:
    """List the images of a folder of class folders.

    Parameters
    ----------
    root : path
        The folder. Class folders may be nested (``kingdom/family/species``).
    depth : int, optional
        Number of folders below ``root`` that name the class; by default all of them do.

    Returns
    -------
    files : list of ImageFile
        The n images, sorted by path.
    labels : ndarray, shape (n,), int64
        Positions in ``names``.
    names : list of str
        Class names, sorted: paths of the class folders relative to ``root``.

    Raises
    ------
    DatasetError
        If there is no such folder, no image in it, or an image outside a class folder.
    """
    if depth is not None and depth < 1:
        raise InvalidInputError(f"depth is {depth}; expected 1 or more, or None for all folders.")
    base = os.path.abspath(os.fsencode(root))
    files = list_images([base])
    if not files:
        raise DatasetError(f"{root} has no image; put images in class folders, {root}/CLASS/*.jpg.")
    classes = []
    for file in files:
        folders = file.path[len(base) :].lstrip(b"/").split(b"/")[:-1]
        if not folders:
            raise DatasetError(
                f"{os.fsdecode(file.path)} is not in a class folder; put it in {root}/CLASS/."
            )
        classes.append(os.fsdecode(b"/".join(folders[:depth])))
    names, labels = np.unique(np.array(classes, dtype=object), return_inverse=True)
    return files, labels.astype(np.int64), names.tolist()


def cifar10_protocol(
    root: str | Path, which: str = "II", *, n_query: int | None = None, seed: int = 0
) -> Protocol:
    """The two protocols of the hashing literature on CIFAR-10.

    Parameters
    ----------
    root : path
        Holds ``train/CLASS/*`` and ``test/CLASS/*``.
    which : {"I", "II"}
        Training set: all images of ``train`` (I), or 500 of each class (II).
    n_query : int, optional
        Number of queries, drawn from ``test`` as evenly over the classes as possible; by default
        all images of ``test``.
    seed : int
        Seed of the random choices.

    Returns
    -------
    Protocol
        The database is all of ``train`` in both protocols; the measure is mAP@1000.

    Raises
    ------
    DatasetError
        If the folders are not as described.
    InvalidInputError
        If ``which`` or ``n_query`` is out of range.
    """
    if which not in ("I", "II"):
        raise InvalidInputError(f"which is {which!r}; expected 'I' or 'II'.")
    help_ = _CIFAR10_HELP.format(root=root)
    splits: dict[str, Split] = {}
    names: list[str] = []
    for part in ("train", "test"):
        try:
            files, labels, classes = class_folders(Path(root) / part, depth=1)
        except DatasetError as error:
            raise DatasetError(f"{str(error).partition(';')[0]}; {help_}.") from error
        if len(classes) != 10 or (names and classes != names):
            raise DatasetError(
                f"{Path(root) / part} has the classes {', '.join(classes[:12])}; {help_}."
            )
        names = classes
        splits[part] = Split([file.path for file in files], labels)
    database, test = splits["train"], splits["test"]
    rng = np.random.default_rng(seed)
    train = database
    if which == "II":
        smallest = int(np.bincount(database.labels).min())
        if smallest < 500:
            raise DatasetError(
                f"{Path(root) / 'train'} has a class of {smallest} images; protocol II needs at "
                f"least 500; {help_}."
            )
        train = database.take(_balanced(database.labels, 5000, rng))
    query = test
    if n_query is not None:
        _check_n_query(n_query, len(test))
        query = test.take(_balanced(test.labels, n_query, rng))
    return Protocol(f"CIFAR-10 {which}", names, train, query, database, top=1000)


def folder_protocol(root: str | Path, n_query: int = 1000, *, seed: int = 0) -> Protocol:
    """A protocol for any folder of class folders.

    Parameters
    ----------
    root : path
        See `class_folders`.
    n_query : int
        Number of queries, chosen uniformly from all images.
    seed : int
        Seed of the random choice.

    Returns
    -------
    Protocol
        All images that are not queries are both training set and database; the measure is
        mAP@100.

    Raises
    ------
    DatasetError
        If the folder does not consist of class folders.
    InvalidInputError
        If ``n_query`` does not leave at least one image for the database.
    """
    files, labels, names = class_folders(root)
    everything = Split([file.path for file in files], labels)
    _check_n_query(n_query, len(files) - 1)
    chosen = np.random.default_rng(seed).permutation(len(files))
    query = everything.take(np.sort(chosen[:n_query]))
    rest = everything.take(np.sort(chosen[n_query:]))
    return Protocol(Path(os.path.abspath(root)).name, names, rest, query, rest, top=100)


def _check_n_query(n_query: int, high: int) -> None:
    if not 1 <= n_query <= high:
        raise InvalidInputError(f"n_query is {n_query}; expected 1 to {high}.")


def _balanced(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Choose n rows, as evenly over the classes as possible; sorted."""
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    # The rank of each row within its class; rows are taken by rank: first of each class, and so on.
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(rank, kind="stable")[:n]])
