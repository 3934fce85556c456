"""`HiHPQTransformer`: rows to their learned representation, or to codes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from hyperpq.estimators.learner import Learner
from hyperpq.utils.validation import as_choice

Output = Literal["embedding", "decoded", "codes"]
_OUTPUTS: tuple[Output, ...] = get_args(Output)


class HiHPQTransformer(Learner):
    """Learned hyperbolic representation of rows, or their codes.

    Parameters
    ----------
    M, nbits, device
        See `HiHPQIndex`.
    metric : {"l1", "geodesic", "chord"}
        How distances add up over the subspaces, see `HiHPQIndex`.
    objective : {"semantic", "fidelity", "balanced"}
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
        M: int = 8,
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
