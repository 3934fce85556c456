"""An order of codewords in which near ones have near codes.

A scan without AVX-512 VBMI first bounds the distances of rows by the least table entries of 16
codewords whose codes share their high four bits, and then of two (``scan/native/bound.h``). The
nearer these codewords are to each other, the more rows are excluded: k-means leaves them in no
order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def near_codewords_together(codebook: NDArray[np.float32]) -> NDArray[np.intp]:
    """Order codewords so that near ones follow each other.

    Codewords are paired, the nearest two first, then pairs of them by their means, and so on.

    Parameters
    ----------
    codebook : ndarray, shape (K, D), float32
        Finite codewords, K a power of two.

    Returns
    -------
    ndarray, shape (K,), intp
        ``codebook[order]`` has the codewords of each 2, 4, 8, ... consecutive codes together.
    """
    words = codebook.astype(np.float64)
    groups = np.arange(len(words))[:, None]
    while len(groups) > 1:
        means = words[groups].mean(1)
        first, second = np.triu_indices(len(groups), 1)
        apart = ((means[first] - means[second]) ** 2).sum(1)
        free = np.ones(len(groups), bool)
        pairs = []
        for i in np.argsort(apart, kind="stable"):
            one, other = first[i], second[i]
            if free[one] and free[other]:
                free[one] = free[other] = False
                pairs.append((one, other))
        groups = np.array([np.concatenate([groups[one], groups[other]]) for one, other in pairs])
    return groups[0]
