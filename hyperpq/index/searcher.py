"""`IndexSearcher`: the searches of an index, each of them on one snapshot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.filters.selectors import SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.calibration import Calibration
from hyperpq.index.probe import Probe
from hyperpq.index.refine import Refine, Refinement
from hyperpq.index.search import range_search, search, with_values
from hyperpq.index.similarity import search_similar, similarity
from hyperpq.index.view import RowView
from hyperpq.progress import ProgressLike
from hyperpq.utils.validation import as_array, as_count, as_number, as_queries, as_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hyperpq.codec.base import Codec
    from hyperpq.codec.coder import Coder
    from hyperpq.index.index_codec import IndexCodec

C = TypeVar("C", "Codec", "IndexCodec")


class SearchOptions(TypedDict, total=False):
    """The parameters of `IndexSearcher.search` after the first two."""

    params: SearchParameters | None
    where: str | Where | None
    refine: Refine
    nprobe: int | None
    recall: float | None
    threads: int | None
    D: NDArray[np.float32] | None
    I: NDArray[np.int64] | None  # noqa: E741
    progress: ProgressLike


class IndexSearcher(ABC):
    """The searches of an index, and what they need.

    Each call uses the codec and the rows of one snapshot.

    Attributes
    ----------
    d : int
        Width of the vectors.
    nprobe : int or None
        The ``nprobe`` of searches that give none, see `search`; None, all cells, at first. It is
        that of this object alone, and not stored.
    """

    d: int
    nprobe: int | None = None

    @abstractmethod
    def _rows(self) -> RowView:
        """The rows as they are now, with their codec."""

    @abstractmethod
    def view(self) -> IndexSearcher:
        """The index as it is now, for several calls that agree with each other."""

    def _trained(self) -> tuple[RowView, Coder]:
        """The rows as they are now, and what encodes by their codec."""
        rows = self._rows()
        return rows, trained(rows.held).coder

    def _probe(
        self, rows: RowView, codec: Coder, nprobe: int | None, recall: float | None = None
    ) -> Probe | None:
        """The cells that a search with these parameters looks at; None for all rows."""
        if nprobe is None and recall is None:
            nprobe = self.nprobe
        return Probe.of(rows, codec, nprobe, recall)

    def search(
        self,
        x: ArrayLike,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        refine: Refine = None,
        nprobe: int | None = None,
        recall: float | None = None,
        threads: int | None = None,
        D: NDArray[np.float32] | None = None,
        I: NDArray[np.int64] | None = None,  # noqa: E741
        progress: ProgressLike = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest vectors of each query by their codes; the result is exact.

        With ``refine`` the best codes are ranked again by the features that the index keeps.

        Parameters
        ----------
        x : array_like, shape (nq, d) or (d,)
            Queries, or a single one.
        k : int
            Number of results for each query.
        params : SearchParameters, optional
            Which ids are searched, as in FAISS.
        where : str or Where, optional
            Which rows are searched by their attributes, such as ``"width >= 512"``.
        refine : int or "auto", optional
            How many of the best codes are ranked again, by the distance of the code plus that of
            the kept features times a factor that the index gives, see `Refinement`. Codes of the
            objective ``fidelity`` and plain codebooks are ranked by the distance of the features
            alone. ``"auto"`` is 50, 100, 200 or 400, which a measurement on rows of the index
            decides. An index without features can rank codes of the objective ``fidelity``, by a
            term of the whole code; ``"auto"`` is then 200. Rows after them keep the order of
            their codes, so that the results for one k are the first of those for a larger one.
        nprobe : int, optional
            In how many cells of an index with cells a query is searched: those whose centroids are
            nearest to it. The result is exact for the rows of these cells. By default it is the
            attribute ``nprobe``, and if that is None all rows are searched, as with ``nlist``.
        recall : float, optional
            The share of the first ten results of the exhaustive search by codes that is to be
            found, in the mean of queries, above 0 and at most 1, instead of ``nprobe``: the
            smallest number of cells with which rows of the index, as queries, found it, see
            `RecallCurve`. With 1 all rows are searched.
        threads : int, optional
            Number of threads; by default one for each core that the process may use, up to
            ``OMP_NUM_THREADS`` where that is set. It does not change the result.
        D, I : ndarray, shape (nq, k), optional
            Arrays that the results are written to, float32 and int64.
        progress : Progress or bool, optional
            Where to report.

        Returns
        -------
        D : ndarray, shape (nq, k), float32
            Distances, refined ones with ``refine``, ascending; +inf where there are fewer than k
            vectors.
        I : ndarray, shape (nq, k), int64
            Ids, ties by the lower one; -1 beside +inf. After the candidates of ``refine`` ties are
            in the order of the codes.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        (rows, codec), k, queries = self._trained(), as_count(k, "k"), as_queries(x, self.d)
        refinement = Refinement.of(rows, codec, refine)
        segments = rows.code_segments(params, where)
        return search(
            codec,
            segments,
            queries,
            k,
            threads,
            scanner=rows.scanner,
            probe=self._probe(rows, codec, nprobe, recall),
            refinement=refinement,
            out=(D, I),
            progress=progress,
        )

    def search_similar(
        self,
        x: ArrayLike,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        refine: Refine = None,
        nprobe: int | None = None,
        recall: float | None = None,
        threads: int | None = None,
        progress: ProgressLike = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
        """`search`, with the similarity of each result, and with copies first.

        A copy is a vector whose kept features equal those of the query within the error with which
        the index keeps them. Its similarity is 100. That of others follows from their distance, see
        `Calibration`, and is 99 at most. An index without kept features does not know copies: the
        similarity is 100 at the distance of the query to its own code.

        Returns
        -------
        D, I : ndarray, shape (nq, k)
            As `search`; copies, which have the code of the query, come before vectors that are as
            near or nearer.
        S : ndarray, shape (nq, k), float64
            Similarities from 0 to 100, descending. NaN where there is no result, and for all but
            copies if the index has no `calibration`.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        (rows, codec), k, queries = self._trained(), as_count(k, "k"), as_queries(x, self.d)
        refinement = Refinement.of(rows, codec, refine)
        is_whole = params is None and where is None
        segments = None if is_whole else rows.code_segments(params, where)
        return search_similar(
            rows,
            codec,
            segments,
            queries,
            k,
            threads,
            probe=self._probe(rows, codec, nprobe, recall),
            refinement=refinement,
            progress=progress,
        )

    def combine(self, x: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float32]:
        """One query that stands for several vectors, with weights: what is like all of them.

        It is their mean in the tangent space of the codec, whose length, which is lost where
        vectors differ, is restored. `docs/how-to/queries.md` has the formula and what was measured.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Vectors.
        weights : array_like, shape (n,), optional
            Their weights, 1 by default. A weight below 0 leads away from what is like its vector;
            -0.25 is enough beside weights that add up to 1. One weight at least is above 0.

        Returns
        -------
        ndarray, shape (d,), float32
            A vector for `search` and the other searches.

        Raises
        ------
        NotTrainedError
        InvalidInputError
            Also if nothing is left of vectors that cancel each other out.
        """
        (_, codec), vectors = self._trained(), as_queries(x, self.d)
        return codec.feature_space().combined(vectors, as_weights(weights, len(vectors)))

    def similarity(
        self, x: ArrayLike, D: ArrayLike, *, refine: Refine = None
    ) -> NDArray[np.float64]:
        """Turn distances that `search` returned into similarities, see `Calibration`.

        Parameters
        ----------
        x : array_like, shape (nq, d) or (d,)
            The queries.
        D : array_like, shape (nq, k)
            Distances of their results.
        refine : int or "auto", optional
            As in the search that returned them.

        Returns
        -------
        ndarray, shape (nq, k), float64
            From 0 to 99, as a distance alone does not show a copy; 100 is for an index without kept
            features. NaN at +inf, and if the index has no `calibration`.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        (rows, codec), queries = self._trained(), as_queries(x, self.d)
        distances = as_array(D, "D")
        is_numeric = distances.dtype.kind in "fiu"
        if not is_numeric or distances.ndim != 2 or len(distances) != len(queries):
            raise InvalidInputError(
                f"D has dtype {distances.dtype} and shape {distances.shape}; expected distances of "
                f"shape ({len(queries)}, k), one row for each query."
            )
        return similarity(rows, codec, queries, distances, Refinement.of(rows, codec, refine))

    @property
    def calibration(self) -> Calibration | None:
        """The scale of similarities, see `Calibration.of`; None if the rows give none."""
        rows, codec = self._trained()
        return Calibration.of(rows, codec)

    def range_search(
        self,
        x: ArrayLike,
        radius: float,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        nprobe: int | None = None,
        threads: int | None = None,
        progress: ProgressLike = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Find all vectors at a distance below ``radius``; other parameters as in `search`.

        Returns
        -------
        lims : ndarray, shape (nq + 1,), int64
            The results of query q are those from ``lims[q]`` to ``lims[q + 1]``.
        D : ndarray, shape (lims[-1],), float32
            Distances, ascending for each query.
        I : ndarray, shape (lims[-1],), int64
            Ids, ties by the lower one.
        """
        (rows, codec), queries = self._trained(), as_queries(x, self.d)
        radius = as_number(radius, "radius")
        segments = rows.code_segments(params, where)
        return range_search(
            codec,
            segments,
            queries,
            radius,
            threads,
            scanner=rows.scanner,
            probe=self._probe(rows, codec, nprobe),
            progress=progress,
        )

    def search_and_reconstruct(
        self,
        x: ArrayLike,
        k: int,
        *,
        R: NDArray[np.float32] | None = None,
        **options: Unpack[SearchOptions],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """`search`, with its parameters, and what `reconstruct` returns for each result.

        Returns
        -------
        D, I
            As `search`.
        R : ndarray, shape (nq, k, M * D), float32
            Tangent vectors; NaN where there is no result.
        """
        view = self.view()
        D, I = view.search(x, k, **options)  # noqa: E741
        (rows, codec), ids = view._trained(), np.unique(I[I >= 0])
        vectors = codec.decode(rows.codes_of(ids))
        return D, I, with_values(I, ids, vectors, R, "R", np.nan)

    def search_and_return_codes(
        self,
        x: ArrayLike,
        k: int,
        *,
        codes: NDArray[np.uint8] | None = None,
        **options: Unpack[SearchOptions],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.uint8]]:
        """`search`, with its parameters, and the code of each result.

        Returns
        -------
        D, I
            As `search`.
        codes : ndarray, shape (nq, k, code_size), uint8
            Codes; 255 in every byte where there is no result.
        """
        view = self.view()
        D, I = view.search(x, k, **options)  # noqa: E741
        ids = np.unique(I[I >= 0])
        return D, I, with_values(I, ids, view._rows().codes_of(ids), codes, "codes", 255)


def trained(codec: C | None) -> C:
    """Return the codec of an index.

    Raises
    ------
    NotTrainedError
        If it has none that is trained.
    """
    if codec is None or not codec.is_trained:
        raise NotTrainedError(
            "the index is not trained; expected a codec; call train(x) of the index first."
        )
    return codec
