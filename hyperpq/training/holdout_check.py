"""Whether learning helped: a criterion without labels, on features that learning didn't see."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.training.graph import build_graph, graph_features, image_weight, reach
from hyperpq.training.initialize import conditioned

log = logging.getLogger(__name__)

# Held-out images: a tenth, at most this many; of fewer images than this there is no verdict.
MOST, FEWEST = 256, 160
# Share of what the start misses that learning must gain: noise gives .03 at most, photos .17 to .22
# (docs/method.md).
MARGIN = 0.05
# Rows that are searched, and the share of them that a list of results has.
_SEARCHED, _SHARE, _LONGEST = 2500, 20, 50
# In small sets its walks reach twice as far as those that teach, which end among the nearest
# images: these exact distances know best (docs/method.md).
_NEIGHBOURS, _STEPS, _ONE_OF = 20, 8, 12


def hold_out(n: int, seed: int) -> NDArray[np.int64]:
    """Sorted positions, of n images, that learning doesn't see; none of too few."""
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: min(n // 10, MOST) if n >= FEWEST else 0])


class Guard:
    """How much of what belongs to a held-out image is found with it and with a view of it.

    What belongs to it is what a walk of several steps on the neighbour graph reaches, a graph of
    its own that has the held-out images in it. The criterion is the share of that affinity that
    lies on the results, of the most that as many results can have.

    Parameters
    ----------
    codec : HiHPQCodec
        Conditions the features.
    x : ndarray, shape (n, d), float32
        Features.
    views : ndarray, shape (V, n, d)
        Features of views; the first one asks.
    held : ndarray, shape (h,), int64
        Rows that ask.
    are_images : bool
        Whether the views are images' own, and so take part in the graph.
    """

    def __init__(
        self,
        codec: HiHPQCodec,
        x: NDArray[np.float32],
        views: NDArray[Any],
        held: NDArray[np.int64],
        *,
        are_images: bool,
    ) -> None:
        # The held-out rows first, so that row i of the asked is row i of the searched.
        others = np.setdiff1d(np.arange(len(x)), held)[: _SEARCHED - len(held)]
        rows, h = np.concatenate([held, others]), len(held)
        self._searched = np.ascontiguousarray(x[rows], np.float32)
        self._asked = self._searched[:h], np.ascontiguousarray(views[0, held], np.float32)
        own = conditioned(codec, self._searched)
        mixed = [conditioned(codec, view[rows]) for view in views] if are_images else []
        z = graph_features(own, mixed, weight=image_weight(own, mixed))
        half = build_graph(z, _NEIGHBOURS, _STEPS, places=reach(len(z), _ONE_OF)).half
        self._affinity = (half[:h] @ half.T).toarray()
        np.fill_diagonal(self._affinity, 0)
        self._k = int(np.clip(len(rows) // _SHARE, 1, _LONGEST))
        most = np.partition(self._affinity, -self._k, axis=1)[:, -self._k :].sum(1)
        self._most = np.maximum(most, 1e-30)

    def approves(self, start: HiHPQCodec, learned: HiHPQCodec) -> bool:
        """Whether learning gained enough; said in the log.

        The verdict is on what was learned: give it codecs with codebooks of the learned subspaces,
        so that it is one for all lengths of a code, and without averaging, which draws noise
        together, too.
        """
        before, after = self.agreement(start), self.agreement(learned)
        verdict = (
            f"agreement of {len(self._most)} held-out images {after:.3f}, {before:.3f} at the start"
        )
        log.info("%s.", verdict)
        if after - before >= MARGIN * (1 - before):
            return True
        log.warning("learning didn't help (%s): the codec is PCA and k-means.", verdict)
        return False

    def agreement(self, codec: HiHPQCodec) -> float:
        """The criterion of a trained codec, 0 to 1."""
        codes = codec.encode(self._searched)
        shares = []
        for asked in self._asked:
            found = _others(codec, asked, codes, self._k)
            shares.append(np.take_along_axis(self._affinity, found, 1).sum(1) / self._most)
        return float(np.mean(shares))


def _others(
    codec: HiHPQCodec, queries: NDArray[np.float32], codes: NDArray[np.uint8], k: int
) -> NDArray[np.int64]:
    """The k nearest codes of each query, without the image that asks (query i is row i)."""
    _, found = scan.search(codec.tables(queries), codes, k + 1)
    others = found != np.arange(len(queries))[:, None]
    others[others.all(1), -1] = False
    return found[others].reshape(len(queries), k)
