"""Similarity: distances as numbers of 0 to 100, on a scale that the rows of the index give.

`docs/method/similarity.md` has the reasons and what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
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
# samples of CIFAR-10 the scale of similarities (random - own) varies by 1 %.
_SAMPLE = 512
# Share of the rows of the sample that are nearer to their own codes than `Calibration.own`.
_OWN_SHARE = 0.95
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

    The similarity is linear in the distance: 0 at ``random``, and 100 at the distance of a query to
    its own code, or at ``own`` if that is smaller. It is rounded to a tenth, and only copies have
    more than 99.

    Attributes
    ----------
    random : float
        Median distance between two rows of the index.
    own : float or None
        The distance to its own code that 95 % of the rows have at most. A query that is further
        from its own code than that is unlike the images that the codec was learned from, and so is
        what lies at its code. None if the index keeps no features.
    n : int
        Number of rows in the sample.
    """

    random: float
    own: float | None
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
        ids, codes = _sample(rows.code_segments())
        if len(ids) < MIN_ROWS:
            return None
        known = _KNOWN.setdefault(codec, {})
        key = codes.tobytes() + bytes([rows.feature_codec is not None])
        if key not in known:
            if len(known) == _MAX_KNOWN:
                known.clear()
            known[key] = cls._of_sample(rows, codec, ids, codes)
        return known[key]

    @classmethod
    def _of_sample(
        cls, rows: RowView, codec: Codec, ids: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> Calibration | None:
        codes, has_features = unpack(packed, codec.M, codec.nbits), rows.feature_codec is not None
        tables = codec.tables(rows.features_of(ids)) if has_features else codec.code_tables(packed)
        D = np.zeros((len(ids), len(ids)))
        for m in range(codec.M):
            D += tables[:, m].take(codes[:, m], axis=1)
        pairs = ~np.eye(len(ids), dtype=bool)
        own, random = float(np.quantile(D.diagonal(), _OWN_SHARE)), float(np.median(D[pairs]))
        if not random - own > 1e-6 * abs(random):
            return None
        return cls(random, own if has_features else None, len(ids))

    def similarity(self, D: ArrayLike, d_self: ArrayLike) -> NDArray[np.float64]:
        """Turn the distances of queries into similarities.

        Parameters
        ----------
        D : array_like, shape (nq, k)
            Distances; +inf where there is no result.
        d_self : array_like, shape (nq,)
            Distance of each query to its own code.

        Returns
        -------
        ndarray, shape (nq, k), float64
            From 0 to 99, falling with the distance; NaN where there is no result. Without kept
            features it is 100 at the distance of the query to its own code.
        """
        distances = np.asarray(D, np.float64)
        own = np.asarray(d_self, np.float64)[:, None]
        span = self.random - self._nearest(own)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(span > 0, (self.random - distances) / span, 0)
        out = np.clip(EXACT * share, 0, MAX_INEXACT).round(1)
        if self.own is None:
            out[distances <= own] = EXACT
        out[np.isposinf(distances)] = np.nan
        return out

    def distance(self, similarity: float, d_self: ArrayLike) -> NDArray[np.float64]:
        """The distance at which each query, shape (nq,), reaches a similarity of up to 99."""
        nearest = self._nearest(np.asarray(d_self, np.float64))
        return self.random - similarity / EXACT * np.maximum(self.random - nearest, 0)

    def _nearest(self, d_self: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distance that counts as the same image."""
        return d_self if self.own is None else np.minimum(d_self, self.own)


# Calibrations of codecs by the codes of the samples. Other rows of the same index, such as those of
# the next snapshot, mostly have the same sample.
_KNOWN: WeakKeyDictionary[Codec, dict[bytes, Calibration | None]] = WeakKeyDictionary()
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
    D = output(None, "D", shape, np.float32)
    I = output(None, "I", shape, np.int64)  # noqa: E741
    S: NDArray[np.float64] = output(None, "S", shape, np.float64)
    D[...], I[...], S[...] = np.inf, -1, np.nan
    calibration, kept_by = Calibration.of(rows, codec), rows.feature_codec
    width = result_width(k, segments)
    for batch in query_batches(len(queries), "search", progress):
        x = queries[batch]
        kept = _as_kept(x, kept_by)
        tables, own = finite_tables(codec, x), _codes(codec, kept)
        found = scan.search_segments(tables, segments, width, threads=threads)
        d_self = _distances_to(tables, own)
        similar = np.full(found[0].shape, np.nan)
        if calibration is not None:
            similar = calibration.similarity(found[0], d_self)
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
    calibration = Calibration.of(rows, codec)
    if calibration is None:
        return np.full(D.shape, np.nan)
    out = np.empty(D.shape)
    for batch in query_batches(len(queries), "search", None):
        x = queries[batch]
        own = _codes(codec, _as_kept(x, rows.feature_codec))
        out[batch] = calibration.similarity(D[batch], _distances_to(finite_tables(codec, x), own))
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
