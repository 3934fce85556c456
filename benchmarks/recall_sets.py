"""The databases of `benchmarks.recall`, up to a million rows, made a block at a time.

The first rows are the features of a cached data set (`benchmarks.featuresets`) in random order. A
database that is larger than the data set goes on with made rows. A made row is a real row, moved a
part of the way to one of its neighbours and by a part of the difference of two others::

    x + TOWARDS (a - x) + ASIDE (b - c)

where a, b and c are among the `NEIGHBOURS` nearest real rows of x; negative values become 0, as
features of the network have none. The two numbers were chosen so that the queries have the same
distances to the nearest of 25,000 made rows as to those of 25,000 real ones (`describe_rows`).

Exact neighbours are computed once and cached.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import Floats, Ids, unit
from benchmarks.featuresets import FeatureSet
from benchmarks.provenance import digest_arrays, digest_settings
from hyperpq.quantizers.kmeans import import_faiss

# Rows that are made, encoded and searched at a time.
BLOCK = 8192
# Rows that every method trains on: the first of the database.
TRAIN = 10_000
# Exact neighbours of a query.
DEPTH = 100
NEIGHBOURS, TOWARDS, ASIDE = 16, 0.2, 0.5
# Principal components that tell the neighbours of a row.
COMPONENTS = 64


def as_compared(x: Floats, metric: str) -> Floats:
    """Rows whose squared Euclidean distance ranks by the metric, ``cosine`` or ``l2``."""
    return unit(x) if metric == "cosine" else np.ascontiguousarray(x, np.float32)


@dataclass(frozen=True)
class Rows:
    """A database and its queries.

    Attributes
    ----------
    real : ndarray, shape (n, d), float32
        Its first rows.
    query : ndarray, shape (nq, d), float32
    neighbours : ndarray, shape (n, NEIGHBOURS), int64
        The nearest others of each real row, from which further rows are made.
    """

    real: Floats
    query: Floats
    neighbours: Ids

    @property
    def d(self) -> int:
        """Dimension of a row."""
        return self.real.shape[1]

    @property
    def train(self) -> Floats:
        """The rows that methods train on."""
        return self.real[:TRAIN]

    @cached_property
    def digest(self) -> str:
        """Digest of everything that the rows depend on."""
        values = digest_arrays([self.real, self.query, self.neighbours])
        return digest_settings({"rows": values, "made": [TOWARDS, ASIDE, BLOCK], "train": TRAIN})

    def blocks(self, sizes: Sequence[int], metric: str) -> Iterator[tuple[Floats, bool]]:
        """Yield the first rows up to the largest size.

        Parameters
        ----------
        sizes : sequence of int
            Numbers of rows, sorted.
        metric : {"cosine", "l2"}
            See `as_compared`.

        Yields
        ------
        block : ndarray, shape (up to BLOCK, d), float32
        complete : bool
            Whether the rows so far are one of the sizes.
        """
        start, wanted = 0, list(sizes)
        for block in self._all_blocks():
            while wanted and start + len(block) >= wanted[0]:
                taken = wanted.pop(0) - start
                yield as_compared(block[:taken], metric), True
                block, start = block[taken:], start + taken
            if not wanted:
                return
            if len(block):
                yield as_compared(block, metric), False
                start += len(block)

    def _all_blocks(self) -> Iterator[Floats]:
        for start in range(0, len(self.real), BLOCK):
            yield self.real[start : start + BLOCK]
        for number in itertools.count():
            yield made_rows(self.real, self.neighbours, BLOCK, number)


def made_rows(real: Floats, neighbours: Ids, n: int, seed: int) -> Floats:
    """Make n rows (n, d) that are like real ones; see the module."""
    rng = np.random.default_rng(seed)
    row = rng.integers(0, len(real), n)
    a, b, c = (neighbours[row, rng.integers(0, neighbours.shape[1], n)] for _ in range(3))
    made = real[row]
    made += np.float32(TOWARDS) * (real[a] - made)
    made += np.float32(ASIDE) * (real[b] - real[c])
    return np.maximum(made, 0, out=made)


def open_rows(features: FeatureSet, n_query: int, seed: int = 0) -> Rows:
    """The database of a data set in random order, with what further rows are made from."""
    order = np.random.default_rng(seed).permutation(len(features.database))
    real = np.ascontiguousarray(features.database[order], np.float32)
    file = features.source / "recall-neighbours.npz"
    key = digest_settings({"rows": digest_arrays([real]), "of": [NEIGHBOURS, COMPONENTS]})
    saved = _read(file, key)
    if saved is None:
        saved = {"neighbours": _nearest_others(unit(real))}
        _write(file, key, saved)
    return Rows(real, features.query[:n_query], saved["neighbours"])


def _nearest_others(x: Floats) -> Ids:
    """The `NEIGHBOURS` nearest others of each row of x (n, d) by its principal components."""
    faiss = import_faiss()
    pca = faiss.PCAMatrix(x.shape[1], min(COMPONENTS, x.shape[1]))
    pca.train(x[:TRAIN])
    y = pca.apply(x)
    flat = faiss.IndexFlatL2(pca.d_out)
    flat.add(y)
    # Equal rows are each other's neighbours, and may come before the row itself.
    found: Ids = flat.search(y, NEIGHBOURS + 1)[1]
    keep = found != np.arange(len(x))[:, None]
    keep[keep.all(1), -1] = False
    return found[keep].reshape(len(x), NEIGHBOURS)


class Neighbours(NamedTuple):
    """Exact neighbours.

    Attributes
    ----------
    ids : ndarray, shape (nq, DEPTH), int64
        Nearest first.
    distances : ndarray, shape (nq, DEPTH), float32
        Squared Euclidean distances of `as_compared` rows.
    """

    ids: Ids
    distances: Floats


def exact_neighbours(
    rows: Rows, sizes: Sequence[int], metric: str, cache: Path
) -> dict[int, Neighbours]:
    """Exact neighbours of the queries in databases of several sizes.

    Parameters
    ----------
    rows : Rows
    sizes : sequence of int
        Sorted; each of at least DEPTH rows.
    metric : {"cosine", "l2"}
    cache : Path
        Folder in which they are kept.

    Returns
    -------
    dict
        By size.
    """
    file = cache / f"recall-exact-{metric}-{sizes[-1]}.npz"
    key = digest_settings({"rows": rows.digest, "sizes": list(sizes), "depth": DEPTH})
    saved = _read(file, key)
    if saved is None:
        found = search_blocks(rows.blocks(sizes, metric), as_compared(rows.query, metric))
        ids, distances = zip(*found, strict=True)
        saved = {"ids": np.stack(ids), "distances": np.stack(distances)}
        _write(file, key, saved)
    pairs = zip(saved["ids"], saved["distances"], strict=True)
    return {n: Neighbours(*pair) for n, pair in zip(sizes, pairs, strict=True)}


def search_blocks(blocks: Iterator[tuple[Floats, bool]], query: Floats) -> Iterator[Neighbours]:
    """The exact neighbours in the rows so far, whenever they are complete; see `Rows.blocks`."""
    faiss = import_faiss()
    best: Neighbours | None = None
    start = 0
    for block, complete in blocks:
        flat = faiss.IndexFlatL2(block.shape[1])
        flat.add(block)
        distances, ids = flat.search(query, min(DEPTH, len(block)))
        found = Neighbours(ids + start, distances)
        if best is not None:
            all_ids = np.concatenate([best.ids, found.ids], 1)
            both = np.concatenate([best.distances, found.distances], 1)
            order = np.argsort(both, 1, kind="stable")[:, :DEPTH]
            found = Neighbours(*(np.take_along_axis(one, order, 1) for one in (all_ids, both)))
        best, start = found, start + len(block)
        if complete:
            yield best


def intrinsic_dimension(distances: Floats) -> float:
    """Local intrinsic dimension of queries, by maximum likelihood (Levina and Bickel, 2004).

    Parameters
    ----------
    distances : ndarray, shape (nq, k), float32
        Squared distances of the k nearest rows of each query, sorted.

    Returns
    -------
    float
        The median over the queries.
    """
    radii = np.sqrt(np.maximum(distances, np.finfo(np.float32).tiny))
    return float(np.median(-1 / np.log(radii[:, :-1] / radii[:, -1:]).mean(1)))


def _read(file: Path, key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays of a cached file that was written with the same key."""
    if not file.exists():
        return None
    with np.load(file) as saved:
        return {n: saved[n] for n in saved.files if n != "key"} if saved["key"] == key else None


def _write(file: Path, key: str, arrays: dict[str, NDArray[Any]]) -> None:
    unfinished = file.with_suffix(".part.npz")
    everything: dict[str, Any] = {"key": key, **arrays}
    np.savez(unfinished, **everything)
    os.replace(unfinished, file)
