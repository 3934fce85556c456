"""Evaluation protocols of the hashing literature for images with several labels.

A found image is relevant if it shares a label with the query. The layouts are those in which the
data sets are distributed.
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
        Holds ``mirflickr/im1.jpg``, ... and ``mirflickr25k_annotations_v080/animals.txt``, ...:
        24 files of image numbers, one a line. The 14 files ``*_r1.txt`` beside them, subsets
        for a stricter meaning of the same labels, are not read.
    seed : int
        Of the choices.
    n_query, n_train : int
        Queries, and training images out of the database.

    Returns
    -------
    Protocol
        All labelled images that aren't queries are the database; mAP@5000.

    Raises
    ------
    DatasetError
        If the tree isn't as described, or has too few images.
    InvalidInputError
        If ``n_query`` or ``n_train`` is below 1.

    Notes
    -----
    Papers say 25,000 images. 419 of them have no label: nothing is relevant to one of these,
    so each that asks costs any method its average precision. The split lists that circulate with
    the code of the field (``img.txt``, ``targets.txt``: the names that the code of MeCoQ and HiHPQ
    reads) hold the 24,581 images with a label, and so does this protocol.

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
        raise DatasetError(f"{Path(root) / 'mirflickr'}: {_reason(error)}; {help_}") from error
    rows: dict[int, NDArray[np.bool_]] = {}
    for column, label in enumerate(FLICKR25K_LABELS):
        file = Path(root) / _ANNOTATIONS / f"{label}.txt"
        for number, line in enumerate(_read_lines(file, help_), start=1):
            if not line.isdigit():
                raise DatasetError(
                    f"{file}: line {number} is {_shown(line)}, not the number of an image; {help_}"
                )
            if b"im%b.jpg" % line not in on_disk:
                raise DatasetError(
                    f"{file}: line {number} is {_shown(line)}, but there is no such image in "
                    f"{root}/mirflickr; {help_}"
                )
            rows.setdefault(int(line), np.zeros(len(FLICKR25K_LABELS), bool))[column] = True
    if len(rows) < n_query + n_train:
        raise DatasetError(
            f"{root}: {len(rows)} images with a label, the protocol needs {n_query} queries and "
            f"{n_train} training images; {help_}"
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
        Holds ``Flickr/CLASS/NAME.jpg``; ``ImageList/Imagelist.txt`` with a ``CLASS\NAME.jpg`` a
        line; and ``Groundtruth/AllLabels/Labels_CONCEPT.txt`` with a 0 or 1 for each of its lines.
    seed : int
        Of the choices.
    query_per_concept, train_per_concept : int
        2,100 queries and 10,500 training images are 100 and 500 for each of 21 concepts.

    Returns
    -------
    Protocol
        All images with one of the concepts (195,834 in the full set) that aren't queries are
        the database; mAP@5000. ``missing`` counts those of them that aren't on disk: some have
        vanished from Flickr, so that a copy fetched from there is smaller.

    Raises
    ------
    DatasetError
        If the tree isn't as described, or has too few images of a concept.
    InvalidInputError
        If ``query_per_concept`` or ``train_per_concept`` is below 1.

    Notes
    -----
    "100 of each concept" leaves open how an image of several concepts counts. Here each concept
    in turn, the rarest first, is given 100 queries and 500 training images that none before it
    was given. So there are as many of both as is published, none twice.

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
                f"{root}: {len(everything)} of {len(paths)} labelled images are on disk, which "
                f"leaves {len(rows)} of {NUSWIDE_CONCEPTS[column]} where the protocol needs "
                f"{query_per_concept} queries and {train_per_concept} training images; {help_}"
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
                f"{list_file}: line {number} is {_shown(name)}, not CLASS\\NAME.jpg; {help_}"
            )
    labels = np.empty((len(listed), len(NUSWIDE_CONCEPTS)), bool)
    for column, concept in enumerate(NUSWIDE_CONCEPTS):
        file = root / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt"
        lines = _read_lines(file, help_)
        if len(lines) != len(listed):
            raise DatasetError(
                f"{file}: {len(lines)} lines, but {list_file} has {len(listed)}; {help_}"
            )
        values = np.array(lines)
        wrong = np.flatnonzero((values != b"0") & (values != b"1"))
        if len(wrong):
            line = int(wrong[0])
            raise DatasetError(
                f"{file}: line {line + 1} is {_shown(lines[line])}, neither 0 nor 1; {help_}"
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
    """The protocol in which all rows that don't ask are searched."""
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
            raise InvalidInputError(f"{name} is {count}; give 1 or more")


def _read_lines(file: Path, help_: str) -> list[bytes]:
    """The lines of a file without white space around them; blank ones at its end don't count."""
    try:
        lines = file.read_bytes().rstrip().splitlines()
    except OSError as error:
        raise DatasetError(f"{file}: {_reason(error)}; {help_}") from error
    if not lines:
        raise DatasetError(f"{file}: empty; {help_}")
    return [line.strip() for line in lines]


def _reason(error: OSError) -> str:
    return f"can't be read ({error.strerror})"


def _shown(line: bytes) -> str:
    """A line for an error message, however long or odd it is."""
    return repr(os.fsdecode(line[:60]))
