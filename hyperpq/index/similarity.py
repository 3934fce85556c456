"""Similarity: the results of a search as numbers of 0 to 100, and copies first.

`docs/method/similarity.md` has the reasons and what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import CodeSegment, unpack
from hyperpq.index.calibration import EXACT, Scale
from hyperpq.index.search import finite_tables, output, query_batches, result_width
from hyperpq.progress import ProgressLike

if TYPE_CHECKING:
    from hyperpq.codec.coder import Coder
    from hyperpq.codec.feature_codec import FeatureCodec
    from hyperpq.index.probe import Probe
    from hyperpq.index.refine import Refinement
    from hyperpq.index.view import RowView

# What two features of one image differ by at most: this share of the error with which features are
# kept, and this share of their length. Features of one file on two processors differ by 10^-6 of
# their length; those of a JPEG image that was compressed again with quality 75, by 0.4 to 3 errors.
_ERROR_SHARE, _LENGTH_SHARE = 0.3, 1e-5
# Rows whose features are compared at once.
_BATCH = 1024


def search_similar(
    rows: RowView,
    codec: Coder,
    segments: Sequence[CodeSegment] | None,
    queries: NDArray[np.float32],
    k: int,
    threads: int | None = None,
    *,
    probe: Probe | None = None,
    refinement: Refinement | None = None,
    progress: ProgressLike = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Find the k nearest rows of each query with their similarities, copies first.

    Parameters
    ----------
    rows : RowView
        All rows, which the calibration comes from.
    codec : Coder
        Their codec.
    segments : sequence of CodeSegment or None
        The rows that are searched; None for all of them.
    queries : ndarray, shape (nq, d), float32
        Query vectors.
    k : int
        Number of results for each query.
    threads : int, optional
        Number of threads of the scan, one for each core by default.
    probe : Probe, optional
        Which cells of the rows are searched; all of them by default.
    refinement : Refinement, optional
        What ranks the best codes again.
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
    scale, kept_by = Scale.of(rows, codec), rows.feature_codec
    is_whole = segments is None
    segments = rows.code_segments() if segments is None else segments
    width = result_width(k, segments)
    scanned = width if refinement is None else refinement.width(width, segments)
    for batch in query_batches(len(queries), "search", progress, scanned, probe):
        x = queries[batch]
        kept = _as_kept(x, kept_by)
        tables, own = finite_tables(codec, x), _codes(codec, kept)
        scans = rows.scanner if probe is None else probe.scanner(x)
        by_code = scans.search_segments(tables, segments, scanned, threads=threads)
        d_self = _distances_to(tables, own)
        near, ids = by_code if refinement is None else refinement.ranked(x, *by_code, threads)
        similar = np.full((len(x), width), np.nan)
        if scale is not None:
            # -1 where the cells of a query have no row.
            nearest = by_code[1][:, 0] if is_whole else None
            kinship = scale.kinship(rows, x, tables, threads, nearest=nearest)
            similar = _similarities(scale, near[:, :width], x, d_self, kinship, refinement)
        hits = _Hits(near[:, :width], ids[:, :width], similar)
        if kept_by is not None:
            largest = _largest_difference(x, kept)
            for q in range(len(x)):
                copies = _Copies(rows, segments, own[q], d_self[q], kept[q], largest[q], threads)
                first = copies.of(by_code[1][q], by_code[0][q], 1 << codec.nbits)[:width]
                at = np.full(len(first), d_self[q])
                if refinement is not None:
                    at = refinement.distances(x[q : q + 1], at[None], first[None])[0]
                hits.put_first(q, first, at)
        D[batch, :width], I[batch, :width], S[batch, :width] = hits.D, hits.I, hits.S
    return D, I, S


def similarity(
    rows: RowView,
    codec: Coder,
    queries: NDArray[np.float32],
    D: NDArray[np.float32],
    refinement: Refinement | None = None,
) -> NDArray[np.float64]:
    """Similarities (nq, k) of distances of queries, see `IndexReader.similarity`."""
    scale = Scale.of(rows, codec)
    if scale is None:
        return np.full(D.shape, np.nan)
    out = np.empty(D.shape)
    for batch in query_batches(len(queries), "search", None):
        x = queries[batch]
        tables = finite_tables(codec, x)
        d_self = _distances_to(tables, _codes(codec, _as_kept(x, rows.feature_codec)))
        out[batch] = _similarities(
            scale, D[batch], x, d_self, scale.kinship(rows, x, tables), refinement
        )
    return out


def _similarities(
    scale: Scale,
    D: NDArray[np.float32],
    x: NDArray[np.float32],
    d_self: NDArray[np.float32],
    kinship: NDArray[np.float64],
    refinement: Refinement | None,
) -> NDArray[np.float64]:
    """Similarities (nq, k) of distances, refined ones if there is a refinement."""
    if refinement is None:
        return scale.calibration.similarity(D, d_self, kinship)
    to_self = refinement.to_self(x, d_self)
    return scale.calibration.similarity(D, to_self, kinship, is_refined=True)


@dataclass(frozen=True)
class _Hits:
    """What a search has found for a batch of queries: D, I and S, each of shape (nq, k)."""

    D: NDArray[np.float32]
    I: NDArray[np.int64]  # noqa: E741
    S: NDArray[np.float64]

    def put_first(self, q: int, copies: NDArray[np.int64], D: NDArray[np.float32]) -> None:
        """Put the copies of a query, at most k ids and their distances, before other results."""
        if not len(copies):
            return
        others = ~np.isin(self.I[q], copies)
        for array, first in ((self.D, D), (self.I, copies), (self.S, np.full(len(D), EXACT))):
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
        scanner = self.rows.scanner
        return scanner.range_search_segments(table, self.segments, 0.5, threads=self.threads)[2]


def _as_kept(x: NDArray[np.float32], kept_by: FeatureCodec | None) -> NDArray[np.float32]:
    """Features as a row keeps them, which its code is made of."""
    return x if kept_by is None else kept_by.decode(kept_by.encode(x))


def _codes(codec: Coder, x: NDArray[np.float32]) -> NDArray[np.uint8]:
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
