"""The held-out acceptance check: whether learning helped images that it did not see.

The criterion needs no labels. What belongs to a held-out image is what a walk of several steps on a
neighbour graph reaches, a graph of its own that has the held-out images in it. The *agreement* of a
codec is the share of that affinity that lies on its search results, of the most that as many
results can have.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.training.features import normalized_features
from hyperpq.training.graph import build_graph, graph_features, image_weight, walk_support

log = logging.getLogger(__name__)

# Share that learning must gain of the agreement that the start lacks. It gains .03 at most of noise
# and .17 to .22 of photographs (docs/method.md, section 8).
MIN_GAIN = 0.05
# Most images that are searched. A list of results has one image in so many, and at most so many.
_MAX_SEARCHED, _RESULTS_ONE_OF, _MAX_RESULTS = 2500, 20, 50
# The graph. In small sets the support of its walks is twice that of the walks that learning
# imitates: shorter ones end among the nearest images, which exact distances know best
# (docs/method.md, section 8).
_GRAPH_NEIGHBOURS, _GRAPH_STEPS, _SUPPORT_ONE_OF = 20, 8, 12


class HoldoutCheck:
    """Compares a learned codec with its start by the agreement of their search results.

    Each held-out image is searched for with its own feature and with that of one view of it.

    Parameters
    ----------
    codec : HiHPQCodec
        Normalizes features.
    x : ndarray, shape (n, d), float32
        Features of the images that the held-out ones belong to.
    views : ndarray, shape (V, n, d)
        Features of their views; the first one is searched with.
    held_out : ndarray, shape (h,), int64
        Held-out rows of ``x``.
    has_image_views : bool
        Whether the views are those of augmented images, and so take part in the graph.
    """

    def __init__(
        self,
        codec: HiHPQCodec,
        x: NDArray[np.float32],
        views: NDArray[np.floating],
        held_out: NDArray[np.int64],
        *,
        has_image_views: bool,
    ) -> None:
        # The held-out rows first, so that query i is row i of the searched ones.
        h = len(held_out)
        others = np.setdiff1d(np.arange(len(x)), held_out)[: _MAX_SEARCHED - h]
        rows = np.concatenate([held_out, others])
        self._searched = np.ascontiguousarray(x[rows], np.float32)
        self._queries = (
            self._searched[:h],
            np.ascontiguousarray(views[0, held_out], np.float32),
        )
        own = normalized_features(codec, self._searched)
        graph_views = (
            [normalized_features(codec, view[rows]) for view in views] if has_image_views else []
        )
        z = graph_features(own, graph_views, weight=image_weight(own, graph_views))
        support = walk_support(len(z), _SUPPORT_ONE_OF)
        factor = build_graph(z, _GRAPH_NEIGHBOURS, _GRAPH_STEPS, support=support).factor
        self._affinity = (factor[:h] @ factor.T).toarray()
        np.fill_diagonal(self._affinity, 0)
        self._k = int(np.clip(len(rows) // _RESULTS_ONE_OF, 1, _MAX_RESULTS))
        best = np.partition(self._affinity, -self._k, axis=1)[:, -self._k :].sum(1)
        self._best = np.maximum(best, 1e-30)

    def accepts(self, start: HiHPQCodec, learned: HiHPQCodec) -> bool:
        """Whether learning gained enough; the log says how much.

        The verdict is about the representation. So it should be given codecs with codebooks of the
        learned subspaces, which makes it the same for all code lengths, and without smoothing,
        which draws noise together, too.
        """
        before, after = self.agreement(start), self.agreement(learned)
        h, gain = len(self._best), MIN_GAIN * (1 - before)
        log.info("agreement of %d held-out items %.3f, %.3f at the start.", h, after, before)
        if after - before >= gain:
            return True
        log.warning(
            "learning is left out, as it did not clearly improve the search for %d items that it "
            "had not seen (agreement %.3f, %.3f without it; expected %.3f or more): the codes are "
            "those of PCA and k-means, with which search works, too; with more items it may help.",
            h,
            after,
            before,
            before + gain,
        )
        return False

    def agreement(self, codec: HiHPQCodec) -> float:
        """The criterion of a trained codec, 0 to 1."""
        codes = codec.encode(self._searched)
        shares = []
        for queries in self._queries:
            found = _others(codec, queries, codes, self._k)
            shares.append(np.take_along_axis(self._affinity, found, 1).sum(1) / self._best)
        return float(np.mean(shares))


def _others(
    codec: HiHPQCodec, queries: NDArray[np.float32], codes: NDArray[np.uint8], k: int
) -> NDArray[np.int64]:
    """The k nearest codes of each query, without the image of the query (query i is row i)."""
    _, found = scan.search(codec.tables(queries), codes, k + 1)
    others = found != np.arange(len(queries))[:, None]
    others[others.all(1), -1] = False
    return found[others].reshape(len(queries), k)
