"""Similarity: distances as numbers of 0 to 100, on a scale that the rows of the index give.

`docs/method/similarity.md` has the reasons and what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq import scan
from hyperpq.codes import CodeSegment, unpack
from hyperpq.index.search import finite_tables, output, query_batches, result_width
from hyperpq.progress import ProgressLike

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.codec.feature_codec import FeatureCodec
    from hyperpq.index.view import RowView

EXACT = 100.0
"""Similarity of a copy."""
MAX_INEXACT = 99.0
"""Largest similarity of anything else."""
MIN_ROWS = 20
"""An index with fewer rows has no calibration."""

# Rows of a sample: their tables take 0.07 s of one core at 1,280 numbers and 64 bits, and over
# samples of CIFAR-10 the median of their distances varies by 0.4 %.
_SAMPLE = 512
# Features of a sample that a feature is compared with, and the share of the sample whose features
# are nearer to theirs than `Calibration.like`.
_NEIGHBOURS, _LIKE_SHARE = 3, 0.99
# Steps in which the rows that a sample is drawn from grow, for each doubling of an index.
_STEPS = 4
# What two features of one image differ by at most: this share of the error with which features are
# kept, and this share of their length. Features of one file on two processors differ by 10^-6 of
# their length; those of a JPEG image that was compressed again with quality 75, by 0.4 to 3 errors.
_ERROR_SHARE, _LENGTH_SHARE = 0.3, 1e-5
# Rows whose features are compared at once.
_BATCH = 1024


@dataclass(frozen=True)
class Calibration:
    """The scale on which an index turns distances into similarities.

    The similarity is linear in the distance: 100 at the distance of a query to its own code, and 0
    at ``random``. With kept features it is multiplied by the kinship of the query, which is 1 for a
    query that lies as near to images of the index as these to each other. It is rounded to a tenth,
    and only copies have more than 99.

    Attributes
    ----------
    random : float
        Median distance between two rows of the index.
    like : float or None
        Mean distance, 1 - cosine, of a feature to its three nearest in the sample, which 99 % of
        the features of the sample have at most; None if the index keeps no features.
    unlike : float or None
        Median distance, 1 - cosine, between two features.
    n : int
        Number of rows in the sample.
    """

    random: float
    like: float | None
    unlike: float | None
    n: int

    @classmethod
    def of(cls, rows: RowView, codec: Codec) -> Calibration | None:
        """The calibration of rows, which a sample of them gives, always the same.

        The sample is drawn from the first rows, at least 84 % of them, so that rows that are added
        change it only now and then. Without kept features the codewords of the sample stand for its
        features.

        Parameters
        ----------
        rows : RowView
            The rows.
        codec : Codec
            Their codec.

        Returns
        -------
        Calibration or None
            None if there are fewer than `MIN_ROWS` rows, or rows lie as far from their own codes as
            from other rows, as equal rows do, so that distances do not tell one row from another.
        """
        scale = _Scale.of(rows, codec)
        return None if scale is None else scale.calibration

    def similarity(
        self, D: ArrayLike, d_self: ArrayLike, kinship: ArrayLike = 1.0
    ) -> NDArray[np.float64]:
        """Turn the distances of queries into similarities.

        Parameters
        ----------
        D : array_like, shape (nq, k)
            Distances; +inf where there is no result.
        d_self : array_like, shape (nq,)
            Distance of each query to its own code.
        kinship : array_like, shape (nq,)
            Kinship of each query, 0 to 1.

        Returns
        -------
        ndarray, shape (nq, k), float64
            From 0 to 99, falling with the distance; NaN where there is no result. Without kept
            features it is 100 at the distance of the query to its own code.
        """
        distances = np.asarray(D, np.float64)
        own = np.asarray(d_self, np.float64)[:, None]
        factor = EXACT * np.broadcast_to(np.asarray(kinship, np.float64), len(own))[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(own < self.random, (self.random - distances) / (self.random - own), 0)
        out = np.clip(factor * share, 0, MAX_INEXACT).round(1)
        if self.like is None:
            out[distances <= own] = EXACT
        out[np.isposinf(distances)] = np.nan
        return out

    def distance(
        self, similarity: float, d_self: ArrayLike, kinship: ArrayLike = 1.0
    ) -> NDArray[np.float64]:
        """The distance at which each query, shape (nq,), has a similarity of up to 99.

        It is -inf for a query whose similarities are all smaller.
        """
        own = np.asarray(d_self, np.float64)
        share = similarity / EXACT / np.maximum(np.asarray(kinship, np.float64), 1e-12)
        span = np.maximum(self.random - own, 0)
        return np.where(share <= 1, self.random - share * span, -np.inf)


class _Scale(NamedTuple):
    """A calibration, and the features (n, d) of its sample, of unit length, if there are any."""

    calibration: Calibration
    features: NDArray[np.float64] | None

    @classmethod
    def of(cls, rows: RowView, codec: Codec) -> _Scale | None:
        """See `Calibration.of`."""
        ids, codes = _sample(rows.code_segments())
        if len(ids) < MIN_ROWS:
            return None
        known = _KNOWN.setdefault(codec, {})
        key = codes.tobytes() + bytes([rows.feature_codec is not None])
        try:
            return known[key]
        except KeyError:
            features = None if rows.feature_codec is None else rows.features_of(ids)
            scale = cls._of_sample(codec, codes, features)
        # Other threads may clear it at any time.
        if len(known) >= _MAX_KNOWN:
            known.clear()
        known[key] = scale
        return scale

    @classmethod
    def _of_sample(
        cls, codec: Codec, packed: NDArray[np.uint8], features: NDArray[np.float32] | None
    ) -> _Scale | None:
        codes, n = unpack(packed, codec.M, codec.nbits), len(packed)
        tables = codec.code_tables(packed) if features is None else codec.tables(features)
        D = np.zeros((n, n))
        for m in range(codec.M):
            D += tables[:, m].take(codes[:, m], axis=1)
        pairs = ~np.eye(n, dtype=bool)
        own, random = float(np.median(D.diagonal())), float(np.median(D[pairs]))
        if not random - own > 1e-6 * abs(random):
            return None
        if features is None:
            return cls(Calibration(random, None, None, n), None)
        unit = _unit(features)
        between = 1 - unit @ unit.T
        unlike = float(np.median(between[pairs]))
        np.fill_diagonal(between, np.inf)
        like = float(np.quantile(_to_nearest(between), _LIKE_SHARE))
        return cls(Calibration(random, like, unlike, n), unit)

    def kinship(
        self,
        rows: RowView,
        x: NDArray[np.float32],
        tables: NDArray[np.float32],
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """Kinship (nq,) of queries (nq, d): 1 up to the distance ``like``, 0 from ``unlike`` on.

        The distance is that to the sample or, if it is smaller, to the nearest of all rows by its
        code: few rows may be like a query. ``tables`` are those of the queries.
        """
        like, unlike = self.calibration.like, self.calibration.unlike
        if like is None or unlike is None or self.features is None or not like < unlike:
            return np.ones(len(x))
        unit = _unit(x)
        far = _to_nearest(1 - unit @ self.features.T)
        others = np.flatnonzero(far > like)
        if len(others):
            every = rows.code_segments()
            ids = scan.search_segments(tables[others], every, 1, threads=threads)[1][:, 0]
            products = (unit[others] * _unit(rows.features_of(ids))).sum(1)
            far[others] = np.minimum(far[others], 1 - products)
        # Rounded, as the last bits of a product depend on the batch.
        out: NDArray[np.float64] = ((unlike - far) / (unlike - like)).clip(0, 1).round(4)
        return out


# Scales of codecs by the codes of the samples. Other rows of the same index, such as those of the
# next snapshot, mostly have the same sample.
_KNOWN: WeakKeyDictionary[Codec, dict[bytes, _Scale | None]] = WeakKeyDictionary()
_MAX_KNOWN = 8


def search_similar(
    rows: RowView,
    codec: Codec,
    segments: Sequence[CodeSegment],
    queries: NDArray[np.float32],
    k: int,
    threads: int | None = None,
    *,
    progress: ProgressLike = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Find the k nearest rows of each query with their similarities, copies first.

    Parameters
    ----------
    rows : RowView
        All rows, which the calibration comes from.
    codec : Codec
        Their codec.
    segments : sequence of CodeSegment
        The rows that are searched.
    queries : ndarray, shape (nq, d), float32
        Query vectors.
    k : int
        Number of results for each query.
    threads : int, optional
        Number of threads of the scan, one for each core by default.
    progress : Progress or bool, optional
        Where to report each batch of queries.

    Returns
    -------
    D, I, S : ndarray, shape (nq, k)
        See `IndexReader.search_similar`.
    """
    shape = (len(queries), k)
    D: NDArray[np.float32] = output(None, "D", shape, np.float32)
    I: NDArray[np.int64] = output(None, "I", shape, np.int64)  # noqa: E741
    S: NDArray[np.float64] = output(None, "S", shape, np.float64)
    D[...], I[...], S[...] = np.inf, -1, np.nan
    scale, kept_by = _Scale.of(rows, codec), rows.feature_codec
    width = result_width(k, segments)
    for batch in query_batches(len(queries), "search", progress):
        x = queries[batch]
        kept = _as_kept(x, kept_by)
        tables, own = finite_tables(codec, x), _codes(codec, kept)
        found = scan.search_segments(tables, segments, width, threads=threads)
        d_self = _distances_to(tables, own)
        similar = np.full(found[0].shape, np.nan)
        if scale is not None:
            kinship = scale.kinship(rows, x, tables, threads)
            similar = scale.calibration.similarity(found[0], d_self, kinship)
        hits = _Hits(*found, similar)
        if kept_by is not None:
            largest = _largest_difference(x, kept)
            for q in range(len(x)):
                copies = _Copies(rows, segments, own[q], d_self[q], kept[q], largest[q], threads)
                hits.put_first(q, copies.of(hits.I[q], hits.D[q], codec.quantizer.K), d_self[q])
        D[batch, :width], I[batch, :width], S[batch, :width] = hits.D, hits.I, hits.S
    return D, I, S


def similarity(
    rows: RowView, codec: Codec, queries: NDArray[np.float32], D: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Similarities (nq, k) of distances of queries, see `IndexReader.similarity`."""
    scale = _Scale.of(rows, codec)
    if scale is None:
        return np.full(D.shape, np.nan)
    out = np.empty(D.shape)
    for batch in query_batches(len(queries), "search", None):
        x = queries[batch]
        tables = finite_tables(codec, x)
        d_self = _distances_to(tables, _codes(codec, _as_kept(x, rows.feature_codec)))
        kinship = scale.kinship(rows, x, tables)
        out[batch] = scale.calibration.similarity(D[batch], d_self, kinship)
    return out


@dataclass(frozen=True)
class _Hits:
    """What a search has found for a batch of queries: D, I and S, each of shape (nq, k)."""

    D: NDArray[np.float32]
    I: NDArray[np.int64]  # noqa: E741
    S: NDArray[np.float64]

    def put_first(self, q: int, copies: NDArray[np.int64], d_self: np.float32) -> None:
        """Put the copies of a query, at most k ids, before its other results."""
        if not len(copies):
            return
        others = ~np.isin(self.I[q], copies)
        for array, value in ((self.D, d_self), (self.I, copies), (self.S, EXACT)):
            first = np.broadcast_to(value, len(copies))
            array[q] = np.concatenate([first, array[q][others]])[: array.shape[1]]


@dataclass(frozen=True)
class _Copies:
    """The rows that a query is a copy of: they have its code, and features that are equal.

    Attributes
    ----------
    rows, segments, threads
        See `search_similar`.
    code : ndarray, shape (M,), uint8
        The code of the query.
    d_self : float
        The distance of the query to it.
    kept : ndarray, shape (d,), float32
        The features of the query as a row keeps them.
    largest : float
        Largest difference of features that count as equal.
    """

    rows: RowView
    segments: Sequence[CodeSegment]
    code: NDArray[np.uint8]
    d_self: np.float32
    kept: NDArray[np.float32]
    largest: float
    threads: int | None

    def of(self, ids: NDArray[np.int64], D: NDArray[np.float32], K: int) -> NDArray[np.int64]:
        """Ids of the copies, ascending, at most k; ids and D, shape (k,), were found for a query.

        K is the number of codewords of a codebook.
        """
        # Rows with this code all lie at one distance, and may be more than the results.
        same = np.sort(ids[self.d_self == D]) if D[-1] > self.d_self else self._with_code(K)
        found, n = [np.empty(0, np.int64)], 0
        for start in range(0, len(same), _BATCH):
            some = same[start : start + _BATCH]
            difference = self.rows.features_of(some) - self.kept.astype(np.float64)
            found.append(some[np.linalg.norm(difference, axis=1) <= self.largest])
            n += len(found[-1])
            if n >= len(ids):
                break
        return np.concatenate(found)[: len(ids)]

    def _with_code(self, K: int) -> NDArray[np.int64]:
        """Ids of the rows with the code of the query, ascending."""
        # Distances are numbers of codes that differ.
        table = np.ones((1, len(self.code), K), np.float32)
        table[0, np.arange(len(self.code)), self.code] = 0
        return scan.range_search_segments(table, self.segments, 0.5, threads=self.threads)[2]


def _as_kept(x: NDArray[np.float32], kept_by: FeatureCodec | None) -> NDArray[np.float32]:
    """Features as a row keeps them, which its code is made of."""
    return x if kept_by is None else kept_by.decode(kept_by.encode(x))


def _codes(codec: Codec, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Codes (n, M) uint8 of features."""
    return unpack(codec.encode(x), codec.M, codec.nbits)


def _distances_to(tables: NDArray[np.float32], codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance (n,) of each query to one code (n, M), to the last bit as the scan adds it up."""
    D = np.zeros(len(tables))
    for m in range(codes.shape[1]):
        D += tables[np.arange(len(tables)), m, codes[:, m]]
    largest = float(np.finfo(np.float32).max)
    return D.clip(-largest, largest).astype(np.float32)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features (n, d) of unit length."""
    wide = x.astype(np.float64)
    out: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
    return out


def _to_nearest(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (n,) of the smallest of each row of distances (n, m)."""
    nearest = np.partition(distances, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
    return np.asarray(nearest.mean(1), np.float64)


def _largest_difference(x: NDArray[np.float32], kept: NDArray[np.float32]) -> NDArray[np.float64]:
    """Largest difference (n,) of features (n, d) that count as equal, once they are kept."""
    wide = kept.astype(np.float64)
    error, length = np.linalg.norm(x - wide, axis=1), np.linalg.norm(wide, axis=1)
    out: NDArray[np.float64] = _ERROR_SHARE * error + _LENGTH_SHARE * length
    return out


def _sample(segments: Sequence[CodeSegment]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Ids (n,) and codes (n, code_size) of a sample of the rows."""
    active = [_Active(segment) for segment in segments]
    total = sum(rows.n for rows in active)
    if total > _SAMPLE:
        # The rows that it is drawn from are as many as a power of 2 ** (1 / _STEPS).
        most = int(2 ** (math.floor(math.log2(total) * _STEPS) / _STEPS))
        chosen = np.sort(np.random.default_rng(0).choice(most, _SAMPLE, replace=False))
    else:
        chosen = np.arange(total)
    ids, codes, start = [np.empty(0, np.int64)], [], 0
    for rows in active:
        here = chosen[(chosen >= start) & (chosen < start + rows.n)] - start
        numbers = rows.numbers(here)
        segment = rows.segment
        ids.append(numbers if segment.ids is None else segment.ids[numbers])
        codes.append(segment.codes.take(numbers))
        start += rows.n
    return np.concatenate(ids), np.concatenate(codes) if codes else np.empty((0, 0), np.uint8)


class _Active:
    """The rows of a segment that are not deleted."""

    def __init__(self, segment: CodeSegment) -> None:
        self.segment, self._rows = segment, None
        self.n = segment.codes.n
        if segment.bits is not None:
            bits = np.unpackbits(segment.bits.view(np.uint8), count=self.n, bitorder="little")
            self._rows = np.flatnonzero(bits)
            self.n = len(self._rows)

    def numbers(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the rows at some positions among them."""
        return positions if self._rows is None else self._rows[positions]
