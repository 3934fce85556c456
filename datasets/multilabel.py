"""Evaluation protocols of the hashing literature for images with several labels.

A result is relevant if it shares a label with the query. The folders are expected in the layout in
which the data sets are distributed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.protocols import Protocol, Split
from hyperpq.errors import DatasetError, InvalidInputError

FLICKR25K_LABELS = (  # noqa: SIM905
    "animals baby bird car clouds dog female flower food indoor lake male night people plant_life "
    "portrait river sea sky structures sunset transport tree water"
).split()
# The 21 most frequent of NUS-WIDE's 81 concepts: each has at least 5,000 images.
NUSWIDE_CONCEPTS = (  # noqa: SIM905
    "animal beach buildings clouds flowers grass lake mountain ocean person plants reflection road "
    "rocks sky snow sunset tree vehicle water window"
).split()
_ANNOTATIONS = "mirflickr25k_annotations_v080"
_FLICKR25K_HELP = (
    "put the files of mirflickr25k.zip in {root}/mirflickr/im*.jpg and those of "
    f"{_ANNOTATIONS}.zip in {{root}}/{_ANNOTATIONS}/*.txt"
)
_NUSWIDE_HELP = (
    "put the images of NUS-WIDE in {root}/Flickr/CLASS/*.jpg, its list in "
    "{root}/ImageList/Imagelist.txt and its labels in {root}/Groundtruth/AllLabels/Labels_*.txt"
)


def flickr25k_protocol(
    root: str | Path, *, seed: int = 0, n_query: int = 2000, n_train: int = 5000
) -> Protocol:
    """The protocol of the hashing literature on Flickr25K (MIRFLICKR-25000).

    Parameters
    ----------
    root : path
        Folder with ``mirflickr/im1.jpg``, ... and ``mirflickr25k_annotations_v080/animals.txt``,
        ...: 24 files of image numbers, one per line. The 14 files ``*_r1.txt`` beside them
        contain subsets for a stricter meaning of the same labels and are not read.
    seed : int
        Seed of the random choices.
    n_query, n_train : int
        Number of queries, and of training images, which are part of the database.

    Returns
    -------
    Protocol
        The database is all labelled images that are not queries; the measure is mAP@5000.

    Raises
    ------
    DatasetError
        If the folders are not as described, or have too few images.
    InvalidInputError
        If ``n_query`` or ``n_train`` is below 1.

    Notes
    -----
    Papers report 25,000 images. 419 of them have no label, so that no result is relevant to such a
    query, whatever the method. The split lists that are distributed with the code of MeCoQ and
    HiHPQ (``img.txt``, ``targets.txt``) contain the 24,581 images with a label, and so does this
    protocol.

    References
    ----------
    Huiskes and Lew, The MIR Flickr Retrieval Evaluation, 2008. Splits: Qiu et al., HiHPQ, 2024.
    """
    _check_counts(n_query=n_query, n_train=n_train)
    help_ = _FLICKR25K_HELP.format(root=root)
    folder = os.path.join(os.path.abspath(os.fsencode(root)), b"mirflickr")
    try:
        on_disk = set(os.listdir(folder))
    except OSError as error:
        raise DatasetError(f"{Path(root) / 'mirflickr'} {_reason(error)}; {help_}.") from error
    rows: dict[int, NDArray[np.bool_]] = {}
    for column, label in enumerate(FLICKR25K_LABELS):
        file = Path(root) / _ANNOTATIONS / f"{label}.txt"
        for number, line in enumerate(_read_lines(file, help_), start=1):
            if not line.isdigit():
                raise DatasetError(
                    f"{file} has {_shown(line)} in line {number}; expected the number of an image; "
                    f"{help_}."
                )
            if b"im%b.jpg" % line not in on_disk:
                raise DatasetError(
                    f"{file} has {_shown(line)} in line {number}; there is no such image in "
                    f"{root}/mirflickr; {help_}."
                )
            rows.setdefault(int(line), np.zeros(len(FLICKR25K_LABELS), bool))[column] = True
    if len(rows) < n_query + n_train:
        raise DatasetError(
            f"{root} has {len(rows)} images with a label; the protocol needs {n_query} queries and "
            f"{n_train} training images; {help_}."
        )
    numbers = sorted(rows)
    everything = Split(
        [os.path.join(folder, b"im%d.jpg" % number) for number in numbers],
        np.stack([rows[number] for number in numbers]),
    )
    chosen = np.random.default_rng(seed).permutation(len(everything))
    query, train = chosen[:n_query], chosen[n_query : n_query + n_train]
    return _protocol("Flickr25K", FLICKR25K_LABELS, everything, query, train)


def nuswide_protocol(
    root: str | Path, *, seed: int = 0, query_per_concept: int = 100, train_per_concept: int = 500
) -> Protocol:
    r"""The protocol of the hashing literature on the 21 most frequent concepts of NUS-WIDE.

    Parameters
    ----------
    root : path
        Folder with ``Flickr/CLASS/NAME.jpg``; ``ImageList/Imagelist.txt`` with one
        ``CLASS\NAME.jpg`` per line; and ``Groundtruth/AllLabels/Labels_CONCEPT.txt`` with a 0 or 1
        for each of these lines.
    seed : int
        Seed of the random choices.
    query_per_concept, train_per_concept : int
        Number of queries and of training images of each of the 21 concepts: 2,100 and 10,500
        images by default.

    Returns
    -------
    Protocol
        The database is all images with one of the concepts (195,834 in the full set) that are
        not queries; the measure is mAP@5000. ``missing`` counts those that are not on disk: some
        have been removed from Flickr, so that a recent copy is smaller.

    Raises
    ------
    DatasetError
        If the folders are not as described, or have too few images of a concept.
    InvalidInputError
        If ``query_per_concept`` or ``train_per_concept`` is below 1.

    Notes
    -----
    "100 of each concept" does not define how an image with several concepts counts. Here each
    concept in turn, starting with the rarest, gets 100 queries and 500 training images that no
    concept before it got. The numbers are those of the publications, and no image occurs twice.

    References
    ----------
    Chua et al., NUS-WIDE, 2009. Splits: Qiu et al., HiHPQ, 2024.
    """
    _check_counts(query_per_concept=query_per_concept, train_per_concept=train_per_concept)
    help_ = _NUSWIDE_HELP.format(root=root)
    listed, labels = _read_nuswide(Path(root), help_)
    folder = os.path.join(os.path.abspath(os.fsencode(root)), b"Flickr")
    labelled = np.flatnonzero(labels.any(axis=1))
    paths = [os.path.join(folder, listed[row]) for row in labelled.tolist()]
    on_disk = np.array([os.path.isfile(path) for path in paths], bool)
    everything = Split(paths, labels[labelled]).take(np.flatnonzero(on_disk))
    missing = len(paths) - len(everything)

    order = np.random.default_rng(seed).permutation(len(everything))
    is_free = np.ones(len(everything), bool)
    query, train = [], []
    for column in np.argsort(everything.labels.sum(axis=0), kind="stable").tolist():
        rows = order[everything.labels[order, column] & is_free[order]]
        if len(rows) < query_per_concept + train_per_concept:
            raise DatasetError(
                f"{root} has {len(everything)} of {len(paths)} labelled images on disk, which "
                f"leaves {len(rows)} of {NUSWIDE_CONCEPTS[column]}; the protocol needs "
                f"{query_per_concept} queries and {train_per_concept} training images; {help_}."
            )
        rows = rows[: query_per_concept + train_per_concept]
        is_free[rows] = False
        query.append(rows[:query_per_concept])
        train.append(rows[query_per_concept:])
    return _protocol(
        "NUS-WIDE-21",
        NUSWIDE_CONCEPTS,
        everything,
        np.concatenate(query),
        np.concatenate(train),
        missing,
    )


def _read_nuswide(root: Path, help_: str) -> tuple[list[bytes], NDArray[np.bool_]]:
    """The images of the list, as paths below ``Flickr``, and which of the 21 concepts each has.

    Returns n paths and an (n, 21) array.
    """
    list_file = root / "ImageList" / "Imagelist.txt"
    listed = [line.replace(b"\\", b"/") for line in _read_lines(list_file, help_)]
    for number, name in enumerate(listed, start=1):
        if name.count(b"/") != 1 or not all(name.split(b"/")):
            raise DatasetError(
                f"{list_file} has {_shown(name)} in line {number}; expected CLASS\\NAME.jpg; "
                f"{help_}."
            )
    labels = np.empty((len(listed), len(NUSWIDE_CONCEPTS)), bool)
    for column, concept in enumerate(NUSWIDE_CONCEPTS):
        file = root / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt"
        lines = _read_lines(file, help_)
        if len(lines) != len(listed):
            raise DatasetError(
                f"{file} has {len(lines)} lines; expected {len(listed)} as in {list_file}; {help_}."
            )
        values = np.array(lines)
        wrong = np.flatnonzero((values != b"0") & (values != b"1"))
        if len(wrong):
            line = int(wrong[0])
            raise DatasetError(
                f"{file} has {_shown(lines[line])} in line {line + 1}; expected 0 or 1; {help_}."
            )
        labels[:, column] = values == b"1"
    return listed, labels


def _protocol(
    name: str,
    labels: list[str],
    everything: Split,
    query: NDArray[np.int64],
    train: NDArray[np.int64],
    missing: int = 0,
) -> Protocol:
    """The protocol whose database is all rows that are not queries."""
    database = np.setdiff1d(np.arange(len(everything)), query)
    return Protocol(
        name,
        labels,
        everything.take(np.sort(train)),
        everything.take(np.sort(query)),
        everything.take(database),
        top=5000,
        missing=missing,
    )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InvalidInputError(f"{name} is {count}; expected 1 or more.")


def _read_lines(file: Path, help_: str) -> list[bytes]:
    """The lines of a file without surrounding white space and without blank lines at its end."""
    try:
        lines = file.read_bytes().rstrip().splitlines()
    except OSError as error:
        raise DatasetError(f"{file} {_reason(error)}; {help_}.") from error
    if not lines:
        raise DatasetError(f"{file} is empty; {help_}.")
    return [line.strip() for line in lines]


def _reason(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"


def _shown(line: bytes) -> str:
    """A line of a file as it is shown in an error message, shortened if it is long."""
    return repr(os.fsdecode(line[:60]))
