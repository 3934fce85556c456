"""`HiHPQNeighborsTransformer`: rows to their nearest neighbours, as lists or as a graph."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from sklearn.neighbors import sort_graph_by_row_values
from sklearn.utils.validation import check_is_fitted

from hyperpq.errors import InvalidInputError
from hyperpq.estimators.learner import Learner
from hyperpq.utils.validation import as_choice, as_count

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Mode = Literal["connectivity", "distance"]
_MODES: tuple[Mode, ...] = get_args(Mode)


class HiHPQNeighborsTransformer(Learner):
    """Graph of nearest neighbours by codes, for estimators with ``metric="precomputed"``.

    This is the counterpart of ``KNeighborsTransformer(mode="distance")``. Each row has one
    neighbour more than ``n_neighbors``, since a row that was fitted is its own neighbour. Distances
    are those of `HiHPQIndex.search`, from rows to codes. So the distance of a row to itself is not
    0 but the error of its code, and ``eps`` and ``radius`` of an estimator are in units of the
    metric. With ``objective="fidelity"`` distances are estimates of squared distances, and negative
    estimates are set to 0.

    Parameters
    ----------
    n_neighbors : int
        Number of neighbours of each row, besides itself.
    M, nbits, metric, objective, epochs, random_state, device
        See `HiHPQTransformer`.
    n_jobs : int, optional
        Number of threads of a search as in scikit-learn: None is 1, or what
        ``joblib.parallel_config`` says, and -1 is one for each core. It does not change the result.
    symmetric : bool
        Whether the graph of `fit_transform` is symmetric, see `kneighbors_graph`. Some estimators
        need such a graph, for example ``HDBSCAN(metric="precomputed")``. It has no effect on
        `transform`, whose rows are queries and not rows of the graph.

    Attributes
    ----------
    index_ : HiHPQIndex
        The fitted rows, row i with id i.
    n_samples_fit_ : int
        Number of fitted rows.
    n_features_in_ : int
        Width d of the rows.
    feature_names_in_ : ndarray of str, shape (d,)
        Names of the features; only if `fit` was given some.

    Notes
    -----
    Like the estimators of ``sklearn.neighbors``, a fitted one keeps the rows that it was fitted
    to, because they are the queries of ``kneighbors(None)``: 4 d bytes for each row besides its
    code.

    Examples
    --------
    >>> from hyperpq.estimators import HiHPQNeighborsTransformer
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 8))
    >>> neighbours = HiHPQNeighborsTransformer(n_neighbors=3, epochs=1)
    >>> graph = neighbours.fit_transform(X)
    >>> graph.shape, graph.nnz
    ((100, 100), 400)
    >>> distances, indices = neighbours.kneighbors(X[:2], n_neighbors=10)
    >>> indices.shape
    (2, 10)
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        M: int = 8,
        nbits: int = 8,
        metric: str = "l1",
        objective: str = "semantic",
        epochs: int | None = None,
        random_state: Any = 0,
        device: str = "cpu",
        n_jobs: int | None = None,
        symmetric: bool = False,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.M = M
        self.nbits = nbits
        self.metric = metric
        self.objective = objective
        self.epochs = epochs
        self.random_state = random_state
        self.device = device
        self.n_jobs = n_jobs
        self.symmetric = symmetric

    def fit(self, X: Any, y: Any = None) -> HiHPQNeighborsTransformer:
        """Learn a codec from rows and index the rows.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows to learn from and to find.
        y : ignored

        Raises
        ------
        ValueError
            If rows or parameters are not valid; errors of hyperpq are `InvalidInputError`.
        """
        rows = self._rows(X, reset=True)
        as_count(self.n_neighbors, "n_neighbors")
        self._threads()
        self.index_ = self._learn(rows)
        self.index_.add(rows)
        self._fit_rows = rows
        self._n_features_out = self.n_samples_fit_ = len(rows)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> csr_matrix:
        """`fit` to rows, and the graph of these rows; symmetric if ``symmetric`` is set."""
        graph = self.fit(X, y).transform(X)
        return _symmetric(graph) if self.symmetric else graph

    def transform(self, X: Any) -> csr_matrix:
        """Distances to the nearest fitted rows.

        Parameters
        ----------
        X : array_like, shape (nq, d)
            Queries.

        Returns
        -------
        csr_matrix, shape (nq, n_samples_fit_), float32
            ``n_neighbors + 1`` distances for each row, ascending.

        Raises
        ------
        InvalidInputError
            If fewer rows were fitted than that.
        """
        check_is_fitted(self)
        if self.n_neighbors >= self.n_samples_fit_:
            raise InvalidInputError(
                f"n_neighbors is {self.n_neighbors}, and n_samples_fit_ = {self.n_samples_fit_} "
                "rows were fitted; expected fewer neighbours than rows."
            )
        return self._graph(*self._search(self._rows(X, reset=False), self.n_neighbors + 1))

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> NDArray[np.int64] | tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Nearest fitted rows, as `sklearn.neighbors.NearestNeighbors.kneighbors` returns them.

        Parameters
        ----------
        X : array_like, shape (nq, d), optional
            Queries. By default they are the fitted rows, and no row is its own neighbour.
        n_neighbors : int, optional
            Number of neighbours of each query; that of the estimator by default.
        return_distance : bool
            Whether to return distances as well.

        Returns
        -------
        distances : ndarray, shape (nq, n_neighbors), float32
            Ascending; only with ``return_distance``.
        indices : ndarray, shape (nq, n_neighbors), int64
            Numbers of fitted rows.

        Raises
        ------
        InvalidInputError
            If there are fewer rows to find.
        """
        check_is_fitted(self)
        own = X is None
        k = as_count(self.n_neighbors if n_neighbors is None else n_neighbors, "n_neighbors")
        there = self.n_samples_fit_ - own
        if k > there:
            raise InvalidInputError(
                f"n_neighbors is {k}, and n_samples_fit_ = {self.n_samples_fit_} rows were fitted; "
                f"expected at most {there}."
            )
        rows = self._fit_rows if own else self._rows(X, reset=False)
        D, I = self._search(rows, k + own)  # noqa: E741
        if own:
            others = np.arange(len(I))[:, None] != I
            # A row whose code is far from it may not be among its own neighbours.
            others[others.all(1), -1] = False
            D, I = D[others].reshape(-1, k), I[others].reshape(-1, k)  # noqa: E741
        return (D, I) if return_distance else I

    def kneighbors_graph(
        self,
        X: Any = None,
        n_neighbors: int | None = None,
        mode: Mode = "connectivity",
        *,
        symmetric: bool = False,
    ) -> csr_matrix:
        """Graph of `kneighbors`, as `sklearn.neighbors.NearestNeighbors.kneighbors_graph`.

        Parameters
        ----------
        X, n_neighbors
            See `kneighbors`.
        mode : {"connectivity", "distance"}
            Whether entries are 1 or distances.
        symmetric : bool
            Whether to add the other direction of each edge; only if ``X`` is None. An edge that was
            found in both directions has the mean of its two distances, which differ because each
            is measured to a code.

        Returns
        -------
        csr_matrix, shape (nq, n_samples_fit_), float32
            Entries of each row with ascending distances.
        """
        as_choice(mode, "mode", _MODES)
        if symmetric and X is not None:
            raise InvalidInputError(
                "symmetric is True with rows X of their own; expected X=None, the graph of the "
                "fitted rows."
            )
        D, I = self.kneighbors(X, n_neighbors)  # noqa: E741
        graph = self._graph(D, I)
        graph = _symmetric(graph) if symmetric else graph
        if mode == "connectivity":
            graph.data = np.ones_like(graph.data)
        return graph

    def _threads(self) -> int:
        jobs = self.n_jobs
        # joblib takes any number: 1.5 threads would be 1.
        if jobs is None or (isinstance(jobs, Integral) and not isinstance(jobs, bool) and jobs):
            return int(effective_n_jobs(jobs))
        raise InvalidInputError(
            f"n_jobs is {jobs!r}; expected None, a number of threads, or -1 for one for each core."
        )

    def _search(
        self, rows: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        D, I = self.index_.search(rows, k, threads=self._threads())  # noqa: E741
        return np.maximum(D, 0), I

    def _graph(self, D: NDArray[np.float32], I: NDArray[np.int64]) -> csr_matrix:  # noqa: E741
        from scipy.sparse import csr_matrix

        starts = np.arange(len(I) + 1, dtype=np.int64) * I.shape[1]
        return csr_matrix((D.ravel(), I.ravel(), starts), shape=(len(I), self.n_samples_fit_))


def _symmetric(graph: csr_matrix) -> csr_matrix:
    """Graph (n, n) with each edge in both directions, and the mean where both were there."""
    from scipy.sparse import coo_matrix

    edges = graph.tocoo()
    rows = np.concatenate([edges.row, edges.col])
    columns = np.concatenate([edges.col, edges.row])
    # Sums by `tocsr` keep entries of 0, which adding two sparse matrices would drop.
    data = np.concatenate([edges.data, edges.data])
    both = coo_matrix((data, (rows, columns)), shape=graph.shape).tocsr()
    found = coo_matrix((np.ones_like(data), (rows, columns)), shape=graph.shape).tocsr()
    both.data /= found.data
    return sort_graph_by_row_values(both, warn_when_not_sorted=False)
