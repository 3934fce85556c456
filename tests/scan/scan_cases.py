"""Random tables, codes, ids and masks, and a brute force in plain Python that searches them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from hyperpq.codes import pack, row_bits
from hyperpq.scan import CodeSegment, prepare

LARGEST = float(np.finfo(np.float32).max)


def rounded(total):
    """The float32 nearest to a float64 sum, as a Python float; the largest one beyond its range."""
    return float(np.float32(min(max(total, -LARGEST), LARGEST)))


def brute_force(tables, segments):
    """Sorted (distance, id) of each query, one row at a time; codes lie one to a byte."""
    M = tables.shape[1]
    out = []
    for table in tables.astype(np.float64).tolist():
        found = []
        for codes, ids, mask in segments:
            for row, label, taken in zip(codes.tolist(), ids.tolist(), mask.tolist(), strict=True):
                if taken:
                    total = 0.0
                    for m in range(M):
                        total += table[m][row[m]]
                    found.append((rounded(total), label))
        out.append(sorted(found))
    return out


def first(found, k):
    D = np.full((len(found), k), np.inf, np.float32)
    I = np.full((len(found), k), -1, np.int64)  # noqa: E741
    for q, hits in enumerate(found):
        for rank, (distance, label) in enumerate(hits[:k]):
            D[q, rank], I[q, rank] = distance, label
    return D, I


def make_tables(rng, kind, shape):
    """Tables that a bound by small integers could go wrong on."""
    tables = rng.normal(size=shape).astype(np.float32)
    if kind == "ties":
        tables = rng.integers(-2, 3, shape).astype(np.float32)
    if kind == "equal":
        tables = np.full(shape, np.float32(rng.choice([0, 1, -3.3])))
    if kind == "huge":
        tables = (tables * 10.0 ** rng.integers(-30, 31, shape)).astype(np.float32)
    if kind == "largest":
        tables = np.float32(3.4e38) * rng.choice([-1, 1, 0.5], shape).astype(np.float32)
    if kind == "smallest":
        tables = np.float32(1e-45) * rng.integers(-3, 4, shape).astype(np.float32)
    if kind == "one huge" and tables.size:
        tables[:, 0, rng.integers(shape[2])] = rng.choice([1e30, -1e30, 3e38, -3e38])
    if kind == "offset":
        tables += np.float32(1e6)
    if kind == "float32 ties":  # Sums that differ in float64 are mostly equal in float32.
        tables *= np.float32(0.02)
        tables[:, 0] += np.float32(1e6)
    if kind == "squares":
        tables = tables**2
    return tables


KINDS = (
    "normal",
    "ties",
    "equal",
    "huge",
    "largest",
    "smallest",
    "one huge",
    "offset",
    "float32 ties",
    "squares",
)


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, M, K = draw(st.integers(0, 9000)), draw(st.integers(1, 64)), draw(st.sampled_from([16, 256]))
    # The reference is plain Python: the work is bounded, the extremes of n and M are not.
    n, M = (n, M) if n * M <= 24000 else draw(st.sampled_from([(n, 2), (n, 3), (700, M)]))
    nq = draw(st.integers(0, 5 if n * M <= 6000 else 2))
    k = draw(st.one_of(st.integers(1, n + 5), st.integers(1, 12)))
    tables = make_tables(rng, draw(st.sampled_from(KINDS)), (nq, M, K))
    codes = rng.integers(0, K if draw(st.booleans()) else 2, (n, M)).astype(np.uint8)
    ids = np.arange(n, dtype=np.int64)
    if draw(st.booleans()):
        ids = rng.permutation(n).astype(np.int64) * (2**62 // (n + 1)) + 7
    has_masks = draw(st.booleans())
    mask = np.ones(n, bool)
    if has_masks:
        mask = rng.random(n) < draw(st.sampled_from([0.0, 0.002, 0.1, 0.7]))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    segments = list(
        zip(np.split(codes, cuts), np.split(ids, cuts), np.split(mask, cuts), strict=True)
    )
    return tables, segments, k, has_masks


def packed(segments, K, has_masks):
    nbits = 8 if K == 256 else 4
    return [
        CodeSegment(
            prepare(pack(c, nbits)), np.ascontiguousarray(i), row_bits(m) if has_masks else None
        )
        for c, i, m in segments
    ]
