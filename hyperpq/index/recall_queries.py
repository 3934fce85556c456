"""Queries for which a `RecallCurve` is measured, in an index that keeps no features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import pack, unpack
from hyperpq.utils.forks import blas

if TYPE_CHECKING:
    from hyperpq.codec.coder import Coder

# How many codewords around its own a query is mixed from, for each dimension of a subspace, and the
# concentration of its weights. Of 1,000 other vectors (60,000 rows of 32 numbers, 128 cells, l2,
# recall .95 asked for; normal with falling deviations, normal with equal ones), with what codes
# decode to, with mixtures, and with the vectors of the rows themselves:
#
#                        falling              equal
#     4 codes of 8 bits  .582  .944  .966     .947  .981  .954
#     8 codes of 8 bits  .879  .953  .953     .944  .962  .950
#     8 codes of 4 bits  .801  .973  .947
#     16 codes of 8 bits .948  .961  .961
#
# Twice the dimensions with a concentration of 1 or .3 gave .916 in the first case, and more of
# them look at more cells where deviations are equal. Inner products, learned codes and fidelity
# codes need no mixtures: there what codes decode to gave .947 or more.
_NEAR, _CONCENTRATION = 4, 0.15
_SEED = 0


def decoded_queries(
    codes: NDArray[np.uint8], coder: Coder
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What codes (n, code_size) decode to, as queries: vectors (n, D) and tables (n, M, K)."""
    return coder.decode(codes), coder.code_tables(codes)


def mixed_queries(
    codes: NDArray[np.uint8], coder: Coder
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors such as are coded by some codes, for plain codebooks with the metric ``l2``.

    What codes decode to is not such a vector: it lies in the middle of its cell and of all rows
    with the same codewords, while a vector lies between codewords. Here each part of a vector is a
    random mixture of the codewords around its own. A squared distance to a mixture is the mixture
    of squared distances but for a constant, which no order depends on, so its tables are mixtures.

    Parameters
    ----------
    codes : ndarray, shape (n, code_size), uint8
        The codes.
    coder : Coder
        Their codec.

    Returns
    -------
    v : ndarray, shape (n, D), float32
        The vectors, always the same ones for the same codes.
    tables : ndarray, shape (n, M, K), float32
        Their tables, each row of which may lack a constant.
    """
    n, M, K = len(codes), coder.M, 1 << coder.nbits
    every = np.arange(K, dtype=np.uint8)
    word_tables = coder.code_tables(pack(np.repeat(every[:, None], M, 1), coder.nbits))
    own = unpack(codes, M, coder.nbits)
    v = coder.decode(codes).astype(np.float64)
    tables = np.empty((n, M, K), np.float32)
    rng = np.random.default_rng(_SEED)
    near = min(K, _NEAR * -(-v.shape[1] // M) + 1)
    rows = np.arange(n)[:, None]
    for m in range(M):
        # Decoded vectors are sums over the codes, also where they are rotated.
        single = np.zeros((K, M), np.uint8)
        single[:, m] = every
        parts = coder.decode(pack(single, coder.nbits)).astype(np.float64)
        lengths = (parts**2).sum(1)
        with blas:
            squared = lengths[:, None] + lengths - 2 * (parts @ parts.T)
        around = np.argsort(squared, 1, kind="stable")[own[:, m], :near]
        weights = np.zeros((n, K))
        weights[rows, around] = rng.dirichlet(np.full(near, _CONCENTRATION), n)
        with blas:
            tables[:, m] = weights @ word_tables[:, m].astype(np.float64)
            v += weights @ parts - parts[own[:, m]]
    return v.astype(np.float32), tables
