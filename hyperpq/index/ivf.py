"""`HiHPQIVFIndex`: a `HiHPQIndex` that makes its cells when it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from hyperpq.codec.feature_codec import KeptFeatures
from hyperpq.index.cells import Cells, sampled
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.index.searcher import trained
from hyperpq.store.grouping import MAX_CELLS
from hyperpq.utils.validation import as_count, as_features

if TYPE_CHECKING:
    from hyperpq.index.collection import Collection


class HiHPQIVFIndex(HiHPQIndex):
    """`HiHPQIndex` with cells, like FAISS's ``IndexIVFPQ``: a search can look at some of them.

    It is a `HiHPQIndex` whose `train` also learns ``nlist`` cells, see `HiHPQIndex.make_cells`,
    which makes them for an index that has vectors already. Searches are exhaustive and exact unless
    ``nprobe`` is given, as an argument of the search or as an attribute of the index: FAISS's
    default is 1. Codes are those of an index without cells; FAISS's encode residuals.

    Parameters
    ----------
    d, M, nbits, metric, objective, rotation, features, device
        As in `HiHPQIndex`.
    nlist : int
        Number of cells.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperpq import HiHPQIVFIndex
    >>> x = np.random.default_rng(0).normal(size=(2000, 16)).astype("float32")
    >>> index = HiHPQIVFIndex(16, M=2, nlist=20, metric="l2", device="cpu")
    >>> index.train(x)
    >>> index.add(x)
    >>> exact, some = index.search(x[:5], 10), index.search(x[:5], 10, nprobe=4)
    >>> exact[1].shape == some[1].shape
    True
    """

    def __init__(
        self,
        d: int,
        M: int = 8,
        nlist: int = 1024,
        nbits: int = 8,
        *,
        metric: str = "l1",
        objective: str | None = None,
        rotation: int = 0,
        features: KeptFeatures = "none",
        device: str = "auto",
    ) -> None:
        super().__init__(
            d,
            M,
            nbits,
            metric=metric,
            objective=objective,
            rotation=rotation,
            features=features,
            device=device,
        )
        self._nlist = as_count(nlist, "nlist", 0, MAX_CELLS)

    @property
    def nlist(self) -> int:
        """Number of cells; before training the number that was asked for."""
        return super().nlist if self.is_trained else self._nlist

    def train(self, x: ArrayLike, *args: Any, **options: Any) -> None:
        """Learn the codec and the cells, see `HiHPQIndex.train`.

        Raises
        ------
        InvalidInputError
            Also if there are fewer vectors than cells.
        """
        features = as_features(x, self.d)
        wanted = self.nlist
        Cells.check(wanted, len(features))
        super().train(features, *args, **options)
        rows: Collection = self.collection
        held = trained(rows.held)
        if wanted:
            codes = self._encoded(features[sampled(len(features), wanted)]).codes
            held = held.with_cells(Cells.learn(codes, held.coder, wanted))
        rows.set_codec(held, held.code_size, rows.view().training)
