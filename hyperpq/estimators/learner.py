"""What the estimators share: how they check rows and learn from them."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state

from hyperpq.codec.config import INNER, LEARNED_METRICS, check_metric
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.quantizers.flat_metrics import FLAT_METRICS
from hyperpq.utils.validation import as_choice

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # A method until scikit-learn 1.6.

    def validate_data(estimator: Any, X: Any, **options: Any) -> Any:
        """Check rows against those that the estimator was fitted to."""
        return estimator._validate_data(X, **options)


class Learner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
        as_choice(self.metric, "metric", (*LEARNED_METRICS, INNER))
        if self.metric in FLAT_METRICS:  # An index would have plain codebooks.
            check_metric(self.metric, self.objective)
        index = HiHPQIndex(
            rows.shape[1],
            self.M,
            self.nbits,
            metric=self.metric,
            objective=self.objective,
            device=self.device,
        )
        changes: dict[str, Any] = {} if self.epochs is None else {"epochs": self.epochs}
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        index.train(rows, seed=int(seed), objective=self.objective, **changes)
        return index
