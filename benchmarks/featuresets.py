"""Features of a data set, extracted once with the product's own pipeline and kept on disk.

A set is a folder ``CACHE/DATASET-BACKBONE/`` of ``protocol.npz`` (labels, and which rows of the
database train), ``query.npy``, ``database.npy`` and ``views-STRENGTH.npy``. Once they are there the
images are no longer needed.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones import load_backbone
from hyperpq.datasets.drawn import draw_dataset
from hyperpq.datasets.multilabel import flickr25k_protocol, nuswide_protocol
from hyperpq.datasets.protocols import Protocol, Split, cifar10_protocol, folder_protocol
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images.build.pipeline import AUGMENTATIONS
from hyperpq.images.extract import Reader, extract_features

CIFAR_QUERIES, FOLDER_QUERIES, DRAWN_IMAGES, N_VIEWS = 2000, 1000, 3600, 4

DATASETS: dict[str, Callable[[Path], Protocol]] = {
    "cifar10-i": lambda root: cifar10_protocol(root, "I", n_query=CIFAR_QUERIES),
    "cifar10-ii": lambda root: cifar10_protocol(root, "II", n_query=CIFAR_QUERIES),
    "flickr25k": flickr25k_protocol,
    "nuswide": nuswide_protocol,
    "drawn": lambda root: folder_protocol(_drawn(root), FOLDER_QUERIES),
}


@dataclass(frozen=True)
class FeatureSet:
    """A data set as benchmarks see it.

    Attributes
    ----------
    dataset, data, backbone
        See `open_set`.
    source, folder : Path
        Where the features are kept, and where the runs are.
    protocol : Protocol
        Labels, without the paths of the images.
    train_rows : ndarray, shape (n,), int64
        Rows of the database that train; the first v of them have views.
    viewed : int
        v.
    query, database : ndarray, shape (nq, d) and (N, d), float32
        Features as the network gives them.
    """

    dataset: str
    data: Path | None
    backbone: str
    source: Path
    folder: Path
    protocol: Protocol
    train_rows: NDArray[np.int64]
    viewed: int
    query: NDArray[np.float32]
    database: NDArray[np.float32]

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which opens it again: the features would take far longer to send."""
        more = len(self.train_rows) - self.viewed
        return open_set, (self.dataset, self.data, self.source.parent, self.backbone, more)

    @property
    def view_rows(self) -> NDArray[np.int64]:
        """Rows (v,) of ``train`` that have views."""
        return np.arange(self.viewed)

    @property
    def train(self) -> NDArray[np.float32]:
        """Features (n, d) of the training images."""
        return self.database[self.train_rows]

    def views(self, strength: str) -> NDArray[np.float32]:
        """Features (V, v, d) of views of the first v training images; memory-mapped.

        Raises
        ------
        DatasetError
            They aren't kept yet, and the images can't be read.
        """
        file = self.source / f"views-{strength}.npy"
        if not file.exists():
            images = images_of(self.dataset, self.data, self.source)
            extract(images.train, file, self.backbone, strength)
        return np.load(file, mmap_mode="r")


def set_name(dataset: str, backbone: str) -> str:
    """Name of a set's folder; of a path only its last part counts."""
    kind, _, path = dataset.partition(":")
    short = Path(path).name if kind == "folder" else kind
    return re.sub(r"[^\w.-]+", "_", f"{short}-{backbone.rpartition('/')[2]}")


def open_set(
    dataset: str, data: Path | None, cache: Path, backbone: str = "lite0", more: int = 0
) -> FeatureSet:
    """The features of a data set; extracted first if they aren't kept yet.

    Parameters
    ----------
    dataset : str
        Key of `DATASETS`, or ``folder:PATH`` for a folder of class folders.
    data : Path, optional
        Where the images lie; not needed once the features are kept. The drawn set is drawn there.
    cache : Path
        Holds the folders of all sets.
    backbone : str
        See `hyperpq.backbones.load_backbone`.
    more : int
        Further images of the database that train, drawn at random, without views. Such a set
        has a folder of its own for its runs.

    Raises
    ------
    InvalidInputError
        There is no such data set.
    DatasetError
        Images are missing or can't be read; the message says what to put where.
    """
    kind, _, path = dataset.partition(":")
    if dataset not in DATASETS and not (kind == "folder" and path):
        raise InvalidInputError(
            f"the data set is {dataset!r}; choose one of {', '.join(DATASETS)}, folder:PATH."
        )
    folder = cache / set_name(dataset, backbone)
    wanted = {name: folder / f"{name}.npy" for name in ("query", "database")}
    missing = [name for name, file in wanted.items() if not file.exists()]
    if missing or not (folder / "protocol.npz").exists():
        images = images_of(dataset, data, folder)
        for name in missing:
            extract(getattr(images, name), wanted[name], backbone)
    protocol, rows = read_protocol(folder)
    query, database = (np.load(wanted[name]) for name in ("query", "database"))
    runs, viewed = folder, len(rows)
    if more:
        others = np.setdiff1d(np.arange(len(database)), rows)
        if more > len(others):
            raise InvalidInputError(
                f"{more} more images were to train; {dataset} has {len(others)} others."
            )
        drawn = np.random.default_rng(0).choice(others, more, replace=False)
        rows = np.concatenate([rows, np.sort(drawn)])
        runs = cache / f"{folder.name}+{more}"
        runs.mkdir(exist_ok=True)
        (runs / "source.json").write_text(json.dumps({"features": folder.name, "more": more}))
    return FeatureSet(
        dataset, data, backbone, folder, runs, protocol, rows, viewed, query, database
    )


def save_protocol(folder: Path, protocol: Protocol) -> None:
    """Keep what `read_protocol` returns."""
    row = {path: i for i, path in enumerate(protocol.database.paths)}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "protocol.part.npz"
    np.savez_compressed(
        part,
        name=protocol.name,
        names=protocol.names,
        top=protocol.top,
        missing=protocol.missing,
        query=protocol.query.labels,
        database=protocol.database.labels,
        train_rows=np.array([row[path] for path in protocol.train.paths], np.int64),
    )
    os.replace(part, folder / "protocol.npz")


def read_protocol(folder: Path) -> tuple[Protocol, NDArray[np.int64]]:
    """The protocol of a set without paths, and the rows (n,) of the database that train."""
    with np.load(folder / "protocol.npz") as kept:
        rows = kept["train_rows"]
        query, database = (Split([], kept[name]) for name in ("query", "database"))
        train = Split([], database.labels[rows])
        return Protocol(
            str(kept["name"]),
            kept["names"].tolist(),
            train,
            query,
            database,
            int(kept["top"]),
            int(kept["missing"]),
        ), rows


def _drawn(root: Path) -> Path:
    if not root.exists():
        draw_dataset(root, DRAWN_IMAGES)
    return root


def images_of(dataset: str, data: Path | None, folder: Path) -> Protocol:
    """The protocol with paths; the one that was kept must have been of the same images."""
    kind, _, path = dataset.partition(":")
    if kind == "folder":
        found = folder_protocol(path, FOLDER_QUERIES)
    elif data is None:
        raise DatasetError(
            f"{folder}: not all features of {dataset} are kept here; "
            "give the folder of its images with --data."
        )
    else:
        found = DATASETS[dataset](data)
    if not (folder / "protocol.npz").exists():
        save_protocol(folder, found)
    kept, _ = read_protocol(folder)
    for split in ("train", "query", "database"):
        if not np.array_equal(getattr(kept, split).labels, getattr(found, split).labels):
            raise DatasetError(
                f"{folder}: its features are of other images than those of {data or path} "
                f"({split} differs); delete the folder, or give the images it was made of."
            )
    return found


def extract(split: Split, file: Path, backbone: str, strength: str | None = None) -> None:
    """Save the features (n, d) of a split, or those (V, n, d) of its views of that strength."""
    print(f"extracting {file.name} of {len(split)} images", flush=True)
    reader = Reader()
    if strength:
        reader = Reader(augmentation=AUGMENTATIONS[strength], n_views=N_VIEWS)
    start = time.perf_counter()
    found = extract_features(split.paths, load_backbone(backbone), reader)
    if found.skipped:
        row, reason = found.skipped[0]
        raise DatasetError(
            f"{os.fsdecode(split.paths[row])}: {reason}; {len(found.skipped)} of {len(split)} "
            "images can't be read, replace or remove them."
        )
    # Under its name only when it is whole.
    part = file.with_suffix(".part.npy")
    np.save(part, found.views if strength else found.plain)
    os.replace(part, file)
    spent = time.perf_counter() - start
    print(f"extracted {file.name}: {len(split) / spent:.0f} images/s", flush=True)
