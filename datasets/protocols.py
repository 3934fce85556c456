"""Evaluation protocols: which images train, which ask, which are searched, what is relevant.

The data sets here are folders of class folders; those with several labels an image are in
`hyperpq.datasets.multilabel`. Every choice is a function of sorted names and a seed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.folder import ImageFile, list_images
from hyperpq.errors import DatasetError, InvalidInputError

_CIFAR10_HELP = (
    "put CIFAR-10 as images in {root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg, ten class "
    "folders each"
)


@dataclass(frozen=True)
class Split:
    """Images and what they show.

    Parameters
    ----------
    paths : list of bytes
        Absolute paths, n long.
    labels : ndarray, shape (n,), int64, or shape (n, L), bool
        Each image's class as a position in the protocol's ``names``, or for each of its L
        ``names`` whether the image has that label.
    """

    paths: list[bytes]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> Split:
        """The images of these rows, in this order."""
        return Split([self.paths[row] for row in rows.tolist()], self.labels[rows])


@dataclass(frozen=True)
class Protocol:
    """One way of measuring retrieval.

    Parameters
    ----------
    name : str
        For reports.
    names : list of str
        Names of the classes or labels, sorted.
    train, query, database : Split
        Training images (their labels aren't for training), queries, and what is searched.
    top : int
        Published results are mAP@top.
    missing : int
        Images that the data set names but that aren't on disk; they are in no split.
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
        """Whether results are of the query's class, or share a label with it.

        Parameters
        ----------
        queries : slice or ndarray, shape (nq,), int64
            Rows of ``query``.
        found : ndarray, shape (nq, k), int64
            Rows of ``database`` found for each of them; -1 is no image.

        Returns
        -------
        ndarray, shape (nq, k), bool
            False for -1.
        """
        if self.query.labels.ndim == 1:
            same = self.database.labels[found] == self.query.labels[queries, None]
        else:
            # Eight labels a byte: k is thousands, and what is gathered here has nq * k rows.
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
        How many folders below ``root`` name the class; without it all of them do.

    Returns
    -------
    files : list of ImageFile, n long
        Sorted by path.
    labels : ndarray, shape (n,), int64
        Positions in ``names``.
    names : list of str
        Class names, sorted: paths of the class folders relative to ``root``.

    Raises
    ------
    DatasetError
        If there is no such folder, no image in it, or an image outside of a class folder.
    """
    if depth is not None and depth < 1:
        raise InvalidInputError(f"depth is {depth}; give 1 or more, or nothing for all folders")
    base = os.path.abspath(os.fsencode(root))
    files = list_images([base])
    if not files:
        raise DatasetError(f"{root}: no image; put them in class folders, {root}/CLASS/*.jpg")
    classes = []
    for file in files:
        folders = file.path[len(base) :].lstrip(b"/").split(b"/")[:-1]
        if not folders:
            raise DatasetError(
                f"{os.fsdecode(file.path)}: not in a class folder; put it in {root}/CLASS/"
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
        This many images of ``test``, as equally many of each class as possible; all without it.
    seed : int
        Of the choices.

    Returns
    -------
    Protocol
        The database is all of ``train`` in both; mAP@1000.

    Raises
    ------
    DatasetError
        If the tree isn't as described.
    InvalidInputError
        If ``which`` or ``n_query`` is out of range.
    """
    if which not in ("I", "II"):
        raise InvalidInputError(f"which is {which!r}; give 'I' or 'II'")
    help_ = _CIFAR10_HELP.format(root=root)
    splits: dict[str, Split] = {}
    names: list[str] = []
    for part in ("train", "test"):
        try:
            files, labels, classes = class_folders(Path(root) / part, depth=1)
        except DatasetError as error:
            raise DatasetError(f"{error} ({help_})") from error
        if len(classes) != 10 or (names and classes != names):
            raise DatasetError(
                f"{Path(root) / part}: found the classes {', '.join(classes[:12])}; {help_}"
            )
        names = classes
        splits[part] = Split([file.path for file in files], labels)
    database, test = splits["train"], splits["test"]
    rng = np.random.default_rng(seed)
    train = database
    if which == "II":
        few = int(np.bincount(database.labels).min())
        if few < 500:
            raise DatasetError(
                f"{Path(root) / 'train'}: a class has {few} images, protocol II needs 500; {help_}"
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
        Queries, chosen among all images with equal probability.
    seed : int
        Of the choice.

    Returns
    -------
    Protocol
        All images that aren't queries are both training set and database; mAP@100.

    Raises
    ------
    DatasetError
        If the folder isn't a folder of class folders.
    InvalidInputError
        If ``n_query`` doesn't leave at least one image.
    """
    files, labels, names = class_folders(root)
    everything = Split([file.path for file in files], labels)
    _check_n_query(n_query, len(files) - 1)
    chosen = np.random.default_rng(seed).permutation(len(files))
    query = everything.take(np.sort(chosen[:n_query]))
    rest = everything.take(np.sort(chosen[n_query:]))
    return Protocol(Path(os.path.abspath(root)).name, names, rest, query, rest, top=100)


def _check_n_query(n_query: int, most: int) -> None:
    if not 1 <= n_query <= most:
        raise InvalidInputError(f"n_query is {n_query}; give 1 to {most}")


def _balanced(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Choose n rows, as equally many of each class as possible; sorted."""
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    # The position of each row among those of its class: all first ones, then all second ones, ...
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(turn, kind="stable")[:n]])
