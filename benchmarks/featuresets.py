"""Features of a data set, extracted once with hyperpq's own pipeline and cached on disk.

The features of a data set lie in a folder ``CACHE/DATASET-BACKBONE/``: ``protocol.npz`` (labels,
and the rows of the database that train), ``query.npy``, ``database.npy`` and
``views-STRENGTH.npy``. Once these files exist, the images are no longer needed.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones import Backbone, load_backbone
from hyperpq.backbones.base import PRECISIONS
from hyperpq.datasets.augment import AUGMENTATIONS
from hyperpq.datasets.drawn import draw_dataset
from hyperpq.datasets.multilabel import flickr25k_protocol, nuswide_protocol
from hyperpq.datasets.protocols import Protocol, Split, cifar10_protocol, folder_protocol
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images.extract import ReadOptions, extract_features

# Numbers of queries that are taken from CIFAR-10 and from a folder of class folders.
CIFAR_QUERIES, FOLDER_QUERIES = 2000, 1000
DRAWN_IMAGES = 3600
# Views of each training image.
N_VIEWS = 4

DATASETS: dict[str, Callable[[Path], Protocol]] = {
    "cifar10-i": lambda root: cifar10_protocol(root, "I", n_query=CIFAR_QUERIES),
    "cifar10-ii": lambda root: cifar10_protocol(root, "II", n_query=CIFAR_QUERIES),
    "flickr25k": flickr25k_protocol,
    "nuswide": nuswide_protocol,
    "drawn": lambda root: folder_protocol(_drawn(root), FOLDER_QUERIES),
}


@dataclass(frozen=True)
class FeatureSet:
    """The features and labels of a data set.

    Attributes
    ----------
    dataset, data, backbone, queries
        The arguments of `open_set`.
    source : Path
        Folder of the features.
    folder : Path
        Folder of the runs; it differs from ``source`` if further images train, or if only some of
        the queries are searched.
    protocol : Protocol
        Labels, without the paths of the images.
    train_rows : ndarray, shape (n,), int64
        Rows of the database that train. The first ``n_viewed`` of them have views.
    n_viewed : int
        Number of training images that have views.
    query_rows : ndarray, shape (nq,), int64
        Which queries of ``source`` are searched.
    query, database : ndarray, shape (nq, d) and (N, d), float32
        Features as the network returns them.
    """

    dataset: str
    data: Path | None
    backbone: str
    queries: int | None
    source: Path
    folder: Path
    protocol: Protocol
    train_rows: NDArray[np.int64]
    n_viewed: int
    query_rows: NDArray[np.int64]
    query: NDArray[np.float32]
    database: NDArray[np.float32]

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the set again, which is far faster than sending the features."""
        more = len(self.train_rows) - self.n_viewed
        cache = self.source.parent
        return open_set, (self.dataset, self.data, cache, self.backbone, more, self.queries)

    @property
    def view_rows(self) -> NDArray[np.int64]:
        """Rows of ``train``, shape (n_viewed,), that have views."""
        return np.arange(self.n_viewed)

    @property
    def train(self) -> NDArray[np.float32]:
        """Features of the training images, shape (n, d)."""
        return self.database[self.train_rows]

    def views(self, strength: str) -> NDArray[np.float32]:
        """Features of views of the training images that have any.

        Parameters
        ----------
        strength : {"mild", "paper"}
            Strength of the augmentation.

        Returns
        -------
        ndarray, shape (V, n_viewed, d), float32
            Memory-mapped.

        Raises
        ------
        DatasetError
            If they are not cached yet and the images cannot be read.
        """
        file = self._views_file(strength)
        if not file.exists():
            extract(self.images().train, file, self.backbone, strength)
        return np.load(file, mmap_mode="r")

    def has_views(self, strength: str) -> bool:
        """Whether the views of this strength are cached."""
        return self._views_file(strength).exists()

    def images(self) -> Protocol:
        """The protocol of ``source`` with the paths of its images; see `read_images`."""
        return read_images(self.dataset, self.data, self.source, len(np.load(self._query_file)))

    def _views_file(self, strength: str) -> Path:
        return self.source / f"views-{strength}.npy"

    @property
    def _query_file(self) -> Path:
        return self.source / "query.npy"


def set_name(dataset: str, backbone: str) -> str:
    """Name of the folder of a data set; of a path only its last component counts."""
    kind, _, path = dataset.partition(":")
    short = Path(path).name if kind == "folder" else kind
    return re.sub(r"[^\w.-]+", "_", f"{short}-{backbone.rpartition('/')[2]}")


def open_set(
    dataset: str,
    data: Path | None,
    cache: Path,
    backbone: str = "lite0",
    more: int = 0,
    queries: int | None = None,
) -> FeatureSet:
    """Open the features of a data set, and extract those that are not cached yet.

    Parameters
    ----------
    dataset : str
        Key of `DATASETS`, or ``folder:PATH`` for a folder of class folders.
    data : Path, optional
        Folder of the images; not needed once the features are cached. The drawn set is drawn
        there.
    cache : Path
        Folder that holds the folders of all data sets.
    backbone : str
        See `load_network`.
    more : int
        Number of further images of the database that train, chosen at random, without views. The
        runs of such a set have a folder of their own.
    queries : int, optional
        Number of queries, chosen at random from those of the protocol. A folder of class folders
        that is not cached yet is split into so many queries and a database. The runs of such a set
        have a folder of their own.

    Raises
    ------
    InvalidInputError
        If there is no such data set, or too few images or queries.
    DatasetError
        If images are missing or cannot be read; the message says which files are expected where.
    """
    kind, _, path = dataset.partition(":")
    if dataset not in DATASETS and not (kind == "folder" and path):
        raise InvalidInputError(
            f"dataset is {dataset!r}; expected one of {', '.join(DATASETS)} or folder:PATH."
        )
    source = cache / set_name(dataset, backbone)
    runs, split = source.name, FOLDER_QUERIES
    if queries is not None:
        runs += f"-q{queries}"
        if kind == "folder" and not (source / "protocol.npz").exists():
            source, split = cache / runs, queries
    protocol, rows = _extracted(dataset, data, source, backbone, split)
    query, database = (np.load(source / f"{name}.npy") for name in ("query", "database"))
    n_viewed, query_rows = len(rows), np.arange(len(query))
    if queries is not None:
        query_rows = _some(queries, query_rows, "queries", f"the queries of {dataset}")
        query, chosen = query[query_rows], protocol.query.labels[query_rows]
        protocol = dataclasses.replace(protocol, query=Split([], chosen))
    if more:
        others = np.setdiff1d(np.arange(len(database)), rows)
        what = f"the images of {dataset} that do not train anyway"
        rows = np.concatenate([rows, _some(more, others, "more", what)])
        runs += f"+{more}"
    folder = cache / runs
    folder.mkdir(exist_ok=True)
    return FeatureSet(
        dataset,
        data,
        backbone,
        queries,
        source,
        folder,
        protocol,
        rows,
        n_viewed,
        query_rows,
        query,
        database,
    )


def _some(n: int, rows: NDArray[np.int64], name: str, what: str) -> NDArray[np.int64]:
    """Choose n of the rows (m,) at random, sorted; ``what`` says in an error what they are."""
    if not 1 <= n <= len(rows):
        raise InvalidInputError(f"{name} is {n}; expected 1 to {len(rows)}, {what}.")
    return np.sort(np.random.default_rng(0).choice(rows, n, replace=False))


def _extracted(
    dataset: str, data: Path | None, source: Path, backbone: str, split: int
) -> tuple[Protocol, NDArray[np.int64]]:
    """The protocol of a set whose features of queries and database are cached afterwards."""
    files = {name: source / f"{name}.npy" for name in ("query", "database")}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing or not (source / "protocol.npz").exists():
        images = read_images(dataset, data, source, split)
        for name in missing:
            extract(getattr(images, name), files[name], backbone)
    return read_protocol(source)


def save_protocol(folder: Path, protocol: Protocol) -> None:
    """Save the labels and the training rows of a protocol for `read_protocol`."""
    row_of = {path: row for row, path in enumerate(protocol.database.paths)}
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "protocol.part.npz"
    np.savez_compressed(
        unfinished,
        name=protocol.name,
        names=protocol.names,
        top=protocol.top,
        missing=protocol.missing,
        query=protocol.query.labels,
        database=protocol.database.labels,
        train_rows=np.array([row_of[path] for path in protocol.train.paths], np.int64),
    )
    os.replace(unfinished, folder / "protocol.npz")


def read_protocol(folder: Path) -> tuple[Protocol, NDArray[np.int64]]:
    """Read the cached protocol of a data set.

    Returns
    -------
    protocol : Protocol
        Without the paths of the images.
    train_rows : ndarray, shape (n,), int64
        Rows of the database that train.
    """
    with np.load(folder / "protocol.npz") as saved:
        rows = saved["train_rows"]
        query, database = (Split([], saved[name]) for name in ("query", "database"))
        train = Split([], database.labels[rows])
        return Protocol(
            str(saved["name"]),
            saved["names"].tolist(),
            train,
            query,
            database,
            int(saved["top"]),
            int(saved["missing"]),
        ), rows


def _drawn(root: Path) -> Path:
    """Draw the drawn set unless it exists."""
    if not root.exists():
        draw_dataset(root, DRAWN_IMAGES)
    return root


def read_images(dataset: str, data: Path | None, folder: Path, queries: int) -> Protocol:
    """Read the protocol of a data set with the paths of its images.

    Parameters
    ----------
    dataset, data
        See `open_set`.
    folder : Path
        Folder of the features. The protocol is saved there if there is none yet.
    queries : int
        Number of queries that a folder of class folders is split into.

    Raises
    ------
    DatasetError
        If ``data`` is needed and missing, or if the cached protocol is that of other images.
    """
    kind, _, path = dataset.partition(":")
    if kind == "folder":
        try:
            found = folder_protocol(path, queries)
        except InvalidInputError as error:
            expected = str(error).partition("; ")[2]
            raise InvalidInputError(
                f"the number of queries of {path} is {queries}; {expected[:-1]}; choose it with "
                "--queries."
            ) from None
    elif data is None:
        raise DatasetError(
            f"{folder} does not hold all features of {dataset}; expected the folder of its images; "
            "give it with --data."
        )
    else:
        found = DATASETS[dataset](data)
    if not (folder / "protocol.npz").exists():
        save_protocol(folder, found)
    cached, _ = read_protocol(folder)
    for split in ("train", "query", "database"):
        if not np.array_equal(getattr(cached, split).labels, getattr(found, split).labels):
            raise DatasetError(
                f"{folder} holds features of other images than those of {data or path} ({split} "
                "differs); delete the folder, or give the images that it was made of."
            )
    return found


def load_network(name: str) -> Backbone:
    """The network of a name, which may end with its precision, such as ``lite0@int8``."""
    network, at, asked = name.rpartition("@")
    for precision in PRECISIONS:
        if at and asked == precision:
            return load_backbone(network, precision=precision)
    return load_backbone(name)


def extract(split: Split, file: Path, backbone: str, strength: str | None = None) -> None:
    """Extract and save the features of a split.

    Parameters
    ----------
    split : Split
        Paths of n images.
    file : Path
        Where the features are saved: shape (n, d), or (V, n, d) if ``strength`` is given.
    backbone : str
        See `load_network`.
    strength : {"mild", "paper"}, optional
        Extract V augmented views of each image instead of the image itself.

    Raises
    ------
    DatasetError
        If an image cannot be read; nothing is saved then.
    """
    print(f"extracting {file.name} of {len(split)} images", flush=True)
    options = ReadOptions()
    if strength:
        options = ReadOptions(augmentation=AUGMENTATIONS[strength], n_views=N_VIEWS)
    start = time.perf_counter()
    found = extract_features(split.paths, load_network(backbone), options)
    if found.skipped:
        row, reason = found.skipped[0]
        raise DatasetError(
            f"{os.fsdecode(split.paths[row])}: {reason}; {len(found.skipped)} of {len(split)} "
            "images cannot be read; replace or remove them."
        )
    # The file gets its name when it is complete.
    unfinished = file.with_suffix(".part.npy")
    np.save(unfinished, found.views if strength else found.plain)
    os.replace(unfinished, file)
    seconds = time.perf_counter() - start
    print(f"extracted {file.name}: {len(split) / seconds:.0f} images/s", flush=True)
