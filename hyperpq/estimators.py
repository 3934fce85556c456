"""scikit-learn estimators: learned codes in pipelines, and graphs of nearest neighbours.

`HiHPQTransformer` maps rows to their learned representation or codes, and
`HiHPQNeighborsTransformer` maps them to a sparse graph of neighbours. Both need scikit-learn.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.utils.imports import need
from hyperpq.utils.validation import as_choice, as_count

# Classes need their bases, so this module cannot be imported without scikit-learn.
need("sklearn", "sklearn", "the estimators")

from sklearn.base import (  # noqa: E402
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # A method until scikit-learn 1.6.

    def validate_data(estimator: Any, X: Any, **options: Any) -> Any:
        """Check rows against those that the estimator was fitted to."""
        return estimator._validate_data(X, **options)


if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Output = Literal["embedding", "decoded", "codes"]
_OUTPUTS: tuple[Output, ...] = get_args(Output)


class _Learner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The part of both estimators that learns from rows."""

    M: int
    nbits: int
    metric: str
    objective: str
    epochs: int | None
    random_state: Any
    device: str

    _preserves_dtype = ("float32",)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = list(self._preserves_dtype)
        return tags

    def _more_tags(self) -> dict[str, Any]:  # The same until scikit-learn 1.6.
        return {"preserves_dtype": list(self._preserves_dtype)}

    def _rows(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = validate_data(self, X, dtype=np.float32, reset=reset)
        return rows

    def _learn(self, rows: NDArray[np.float32]) -> HiHPQIndex:
        """A trained and empty index for rows like these (n, d)."""
        index = HiHPQIndex(
            rows.shape[1], self.M, self.nbits, metric=self.metric, device=self.device
        )
        changes: dict[str, Any] = {} if self.epochs is None else {"epochs": self.epochs}
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        index.train(rows, seed=int(seed), objective=self.objective, **changes)
        return index


class HiHPQTransformer(_Learner):
    """Learned hyperbolic representation of rows, or their codes.

    Parameters
    ----------
    M, nbits, device
        See `HiHPQIndex`.
    metric : {"l1", "geodesic", "chord"}
        How distances add up over the subspaces, see `HiHPQIndex`.
    objective : {"semantic", "fidelity"}
        What the representation preserves, see `Recipe`.
    output : {"embedding", "decoded", "codes"}
        What `transform` returns: tangent vectors (`Codec.embed`), those of the nearest codewords
        (`Codec.decode`), or code bytes (`Codec.encode`).
    epochs : int, optional
        Number of training epochs; that of the recipe by default.
    random_state : int, RandomState instance or None
        Seed of every random choice.

    Attributes
    ----------
    codec_ : Codec
        The learned codec.
    n_features_in_ : int
        Width d of the rows.
    feature_names_in_ : ndarray of str, shape (d,)
        Names of the features; only if `fit` was given some.

    Examples
    --------
    >>> from hyperpq.estimators import HiHPQTransformer
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 8))
    >>> HiHPQTransformer(M=2, output="codes", epochs=1).fit_transform(X).shape
    (100, 2)
    """

    def __init__(
        self,
        M: int = 4,
        nbits: int = 8,
        metric: str = "l1",
        objective: str = "semantic",
        output: Output = "embedding",
        epochs: int | None = None,
        random_state: Any = 0,
        device: str = "cpu",
    ) -> None:
        self.M = M
        self.nbits = nbits
        self.metric = metric
        self.objective = objective
        self.output = output
        self.epochs = epochs
        self.random_state = random_state
        self.device = device

    @property
    def _preserves_dtype(self) -> tuple[str, ...]:  # type: ignore[override]
        return () if self.output == "codes" else ("float32",)

    def fit(self, X: Any, y: Any = None) -> HiHPQTransformer:
        """Learn a codec from rows, without labels.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows to learn from.
        y : ignored

        Raises
        ------
        ValueError
            If rows or parameters are not valid; errors of hyperpq are `InvalidInputError`.
        """
        rows = self._rows(X, reset=True)
        as_choice(self.output, "output", _OUTPUTS)
        self.codec_ = self._learn(rows).codec
        self._n_features_out = self._output(rows[:1]).shape[1]
        return self

    def transform(self, X: Any) -> NDArray[np.float32] | NDArray[np.uint8]:
        """Transform rows (n, d) as ``output`` says.

        Returns
        -------
        ndarray
            Tangent vectors (n, M * D) float32, or codes (n, code_size) uint8.
        """
        check_is_fitted(self)
        return self._output(self._rows(X, reset=False))

    def _output(self, rows: NDArray[np.float32]) -> NDArray[np.float32] | NDArray[np.uint8]:
        assert self.codec_ is not None
        if self.output == "embedding":
            return self.codec_.embed(rows)
        codes = self.codec_.encode(rows)
        return codes if self.output == "codes" else self.codec_.decode(codes)


class HiHPQNeighborsTransformer(_Learner):
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

    Examples
    --------
    >>> from hyperpq.estimators import HiHPQNeighborsTransformer
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 8))
    >>> graph = HiHPQNeighborsTransformer(n_neighbors=3, epochs=1).fit_transform(X)
    >>> graph.shape, graph.nnz
    ((100, 100), 400)
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        M: int = 4,
        nbits: int = 8,
        metric: str = "l1",
        objective: str = "semantic",
        epochs: int | None = None,
        random_state: Any = 0,
        device: str = "cpu",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.M = M
        self.nbits = nbits
        self.metric = metric
        self.objective = objective
        self.epochs = epochs
        self.random_state = random_state
        self.device = device

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
        self.index_ = self._learn(rows)
        self.index_.add(rows)
        self._n_features_out = self.n_samples_fit_ = len(rows)
        return self

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
        from scipy.sparse import csr_matrix

        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        k = self.n_neighbors + 1
        if k > self.n_samples_fit_:
            raise InvalidInputError(
                f"n_neighbors is {self.n_neighbors}, and n_samples_fit_ = {self.n_samples_fit_} "
                "rows were fitted; expected fewer neighbours than rows."
            )
        D, I = self.index_.search(rows, k)  # noqa: E741
        starts = np.arange(len(rows) + 1, dtype=np.int64) * k
        shape = (len(rows), self.n_samples_fit_)
        return csr_matrix((np.maximum(D, 0).ravel(), I.ravel(), starts), shape=shape)
