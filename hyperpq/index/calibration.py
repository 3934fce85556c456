"""`Calibration`: the scale of similarities, which a sample of the rows of an index gives.

`docs/method/similarity.md` has the reasons and what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codes import unpack
from hyperpq.utils.files import checksum
from hyperpq.utils.forks import blas

if TYPE_CHECKING:
    from hyperpq.codec.coder import Coder
    from hyperpq.index.view import RowView
    from hyperpq.store import Segment

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
# Deviation of distances of features in refined distances, over that of codes. `refine.md` has what
# other shares give.
_FEATURE_SHARE = 0.3
# Steps in which the rows that a sample is drawn from grow, for each doubling of an index.
_STEPS = 4
# Scales of a codec that are known at once.
_MAX_KNOWN = 8


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
    refined : float or None
        Median refined distance between two rows, see `Refinement`, which takes the place of
        ``random`` for refined distances; None if the rows cannot be ranked again.
    """

    random: float
    like: float | None
    unlike: float | None
    n: int
    refined: float | None = None

    @classmethod
    def of(cls, rows: RowView, codec: Coder) -> Calibration | None:
        """The calibration of rows, which a sample of them gives, always the same.

        The sample is drawn from the first rows, at least 84 % of them, so that rows that are added
        change it only now and then. Without kept features the codewords of the sample stand for its
        features.

        Parameters
        ----------
        rows : RowView
            The rows.
        codec : Coder
            Their codec.

        Returns
        -------
        Calibration or None
            None if there are fewer than `MIN_ROWS` rows, or rows lie as far from their own codes as
            from other rows, as equal rows do, so that distances do not tell one row from another.
        """
        scale = Scale.of(rows, codec)
        return None if scale is None else scale.calibration

    def similarity(
        self,
        D: ArrayLike,
        d_self: ArrayLike,
        kinship: ArrayLike = 1.0,
        *,
        is_refined: bool = False,
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
        is_refined : bool
            Whether these are refined distances.

        Returns
        -------
        ndarray, shape (nq, k), float64
            From 0 to 99, falling with the distance; NaN where there is no result. Without kept
            features it is 100 at the distance of the query to its own code.
        """
        random = self.refined if is_refined and self.refined is not None else self.random
        distances = np.asarray(D, np.float64)
        own = np.asarray(d_self, np.float64)[:, None]
        factor = EXACT * np.broadcast_to(np.asarray(kinship, np.float64), len(own))[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(own < random, (random - distances) / (random - own), 0)
        out = np.clip(factor * share, 0, MAX_INEXACT).round(1)
        if self.like is None:
            out[distances <= own] = EXACT
        out[np.isposinf(distances)] = np.nan
        return out


class Scale(NamedTuple):
    """A calibration, and the features (n, d) of its sample, of unit length, if there are any."""

    calibration: Calibration
    features: NDArray[np.float64] | None

    @classmethod
    def of(cls, rows: RowView, codec: Coder) -> Scale | None:
        """See `Calibration.of`."""
        return Sampled.of(rows, codec).scale

    @classmethod
    def of_distances(
        cls,
        D: NDArray[np.float64],
        features: NDArray[np.float32] | None,
        refined: NDArray[np.float64] | None,
    ) -> Scale | None:
        """The scale of a sample of rows.

        Parameters
        ----------
        D, refined : ndarray, shape (n, n), float64
            Distances of their codes from each row; refined ones if there are any.
        features : ndarray, shape (n, d), float32, or None
            Their features.
        """
        n = len(D)
        if n < MIN_ROWS:
            return None
        pairs = ~np.eye(n, dtype=bool)
        own, random = float(np.median(D.diagonal())), float(np.median(D[pairs]))
        if not random - own > 1e-6 * abs(random):
            return None
        of_refined = None if refined is None else float(np.median(refined[pairs]))
        if features is None:
            return cls(Calibration(random, None, None, n, of_refined), None)
        unit = _unit(features)
        with blas:
            between = 1 - unit @ unit.T
        unlike = float(np.median(between[pairs]))
        np.fill_diagonal(between, np.inf)
        like = float(np.quantile(_to_nearest(between), _LIKE_SHARE))
        return cls(Calibration(random, like, unlike, n, of_refined), unit)

    def kinship(
        self,
        rows: RowView,
        x: NDArray[np.float32],
        tables: NDArray[np.float32],
        threads: int | None = None,
        *,
        nearest: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Kinship (nq,) of queries (nq, d): 1 up to the distance ``like``, 0 from ``unlike`` on.

        The distance is that to the sample or, if it is smaller, to the nearest of all rows by its
        code: few rows may be like a query. ``tables`` are those of the queries. ``nearest`` are the
        ids (nq,) of these rows; they are looked for where they are not given, or -1.
        """
        like, unlike = self.calibration.like, self.calibration.unlike
        if like is None or unlike is None or self.features is None or not like < unlike:
            return np.ones(len(x))
        unit = _unit(x)
        with blas:
            far = _to_nearest(1 - unit @ self.features.T)
        others = np.flatnonzero(far > like)
        if len(others):
            ids = np.full(len(others), -1) if nearest is None else nearest[others]
            missing = np.flatnonzero(ids < 0)
            if len(missing):
                every, asked = rows.code_segments(), tables[others[missing]]
                found = rows.scanner.search_segments(asked, every, 1, threads=threads)
                ids[missing] = found[1][:, 0]
            products = (unit[others] * _unit(rows.features_of(ids))).sum(1)
            far[others] = np.minimum(far[others], 1 - products)
        # Rounded, as the last bits of a product depend on the batch.
        out: NDArray[np.float64] = ((unlike - far) / (unlike - like)).clip(0, 1).round(4)
        return out


class Sampled(NamedTuple):
    """What a sample of the rows of an index says of their distances.

    Attributes
    ----------
    scale : Scale or None
        The scale of similarities, see `Calibration.of`.
    factor : float or None
        Weight of distances of features beside those of codes, see `Refinement`. With it their
        deviation within a query, in the mean, is 0.3 of that of codes. None without kept features,
        and where the exact distance replaces that of the code, `Codec.approximates_features`.
    """

    scale: Scale | None
    factor: float | None

    @classmethod
    def of(cls, rows: RowView, codec: Coder) -> Sampled:
        """What the sample of rows says, always the same, see `Calibration.of`."""
        return _KNOWN.setdefault(codec, _Known()).sampled(rows, codec)

    @classmethod
    def of_sample(
        cls, codec: Coder, packed: NDArray[np.uint8], features: NDArray[np.float32] | None
    ) -> Sampled:
        """The same of a sample of rows: codes (n, code_size), and features (n, d) if kept.

        Rows whose features are too large for a query are left out.
        """
        if features is None:
            tables = codec.code_tables(packed)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                tables = codec.tables(features)
            # Kept features may be too large for a query.
            finite = np.isfinite(tables).all((1, 2))
            tables, packed, features = tables[finite], packed[finite], features[finite]
        codes, n = unpack(packed, codec.M, codec.nbits), len(packed)
        D = np.zeros((n, n))
        for m in range(codec.M):
            D += tables[:, m].take(codes[:, m], axis=1)
        if features is None:
            by_codes = D + codec.corrections(packed) if codec.has_corrections else None
            return cls(Scale.of_distances(D, None, by_codes), None)
        between = codec.feature_space().pairs(features)
        factor = None if codec.approximates_features else _factor(D, between)
        refined = between if factor is None else D + factor * between
        return cls(Scale.of_distances(D, features, refined), factor)


class _Known:
    """What samples of rows of one codec say. Threads may use it at the same time."""

    def __init__(self) -> None:
        # The segments of the rows that were asked for last. A segment never changes.
        self._last: tuple[list[ref[Segment]], Sampled | None] = ([], None)
        # By hashes of samples: other rows of an index, such as those of the next snapshot, mostly
        # have the same sample.
        self._by_sample: dict[str, Sampled] = {}

    def sampled(self, rows: RowView, codec: Coder) -> Sampled:
        segments, (known, sampled) = rows.segments, self._last
        if sampled is not None and len(known) == len(segments) and all(map(_is, known, segments)):
            return sampled
        codes, features = _sample(rows)
        key = checksum(codes.tobytes() + (b"" if features is None else features.tobytes()))
        try:
            sampled = self._by_sample[key]
        except KeyError:
            sampled = Sampled.of_sample(codec, codes, features)
            if len(self._by_sample) >= _MAX_KNOWN:
                self._by_sample.clear()
            self._by_sample[key] = sampled
        self._last = list(map(ref, segments)), sampled
        return sampled


_KNOWN: WeakKeyDictionary[Coder, _Known] = WeakKeyDictionary()


def _is(known: ref[Segment], segment: Segment) -> bool:
    return known() is segment


def first_rows(total: int) -> int:
    """Number of the rows that the sample of an index is drawn from, the first that are stored.

    It is a power of 2 ** (1 / 4), so that it seldom changes, unless all rows are the sample.
    """
    return total if total <= _SAMPLE else int(2 ** (math.floor(math.log2(total) * _STEPS) / _STEPS))


def sample_ids(rows: RowView) -> NDArray[np.int64]:
    """Ids of the sample of an index, ascending within a segment."""
    total, first = rows.ntotal, first_rows(rows.ntotal)
    if total <= _SAMPLE:
        return rows.ids_at(np.arange(total))
    return rows.ids_at(np.sort(np.random.default_rng(0).choice(first, _SAMPLE, replace=False)))


def _sample(rows: RowView) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Codes (n, code_size) and kept features (n, d) of a sample of the rows."""
    ids = sample_ids(rows)
    return rows.codes_of(ids), None if rows.feature_codec is None else rows.features_of(ids)


def _factor(D: NDArray[np.float64], between: NDArray[np.float64]) -> float:
    """`Sampled.factor` for distances (n, n) of codes and of features, from each row to all."""
    if len(D) < 3:
        return 1.0
    pairs = ~np.eye(len(D), dtype=bool)
    codes, features = (x[pairs].reshape(len(D), -1).std(1).mean() for x in (D, between))
    # Where one of them does not vary, only the other one has an order.
    if codes <= 1e-9 * np.abs(D).max() or features <= 1e-9:
        return 1.0
    # The last bits of a deviation depend on the processor.
    return float(f"{_FEATURE_SHARE * codes / features:.4g}")


def _unit(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features (n, d) of unit length."""
    wide = x.astype(np.float64)
    out: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
    return out


def _to_nearest(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (n,) of the smallest of each row of distances (n, m)."""
    nearest = np.partition(distances, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
    return np.asarray(nearest.mean(1), np.float64)
