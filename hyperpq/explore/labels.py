"""`labels_of`: what the rows of a cluster have in common, such as a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

# Rows of a finest cluster that are looked at, spread evenly; those of smaller ones are all.
_MAX_ROWS = 256
_MAX_LABELS = 3
# Less is no description of a cluster.
_MIN_SHARE = 0.1


@dataclass(frozen=True)
class Label:
    """A value that many rows of a cluster share.

    Attributes
    ----------
    column : str
        The attribute, such as ``folder``: the name of the folder that an image is in.
    value : str
        Its value.
    share : float
        Share of the rows that have it, above 0 and at most 1. It is estimated from 256 rows of each
        finest cluster that has more.
    """

    column: str
    value: str
    share: float

    @property
    def text(self) -> str:
        """The label for people."""
        return self.value if self.column == "folder" else f"{self.column} {self.value}"

    def to_json(self) -> dict[str, Any]:
        """The label as JSON types."""
        return {"column": self.column, "value": self.value, "share": self.share}


def labels_of(
    view: IndexView, ids: NDArray[np.int64], clusters: Sequence[tuple[int, int, Sequence[int]]]
) -> list[tuple[Label, ...]]:
    """What the rows of nested clusters share in the columns of strings.

    Parameters
    ----------
    view : IndexView
        The index.
    ids : ndarray, shape (n,), int64
        Its rows in the order of the tree.
    clusters : sequence of (start, stop, children)
        Where each is in ``ids``, and the numbers of its parts, which come after it.

    Returns
    -------
    list of tuple of Label
        For each cluster the largest shares, at least a tenth; ties by column and value.
    """
    names = [name for name, kind in view.rows.schema.items() if kind == "category"]
    counts: list[Counter[tuple[str, str]]] = [Counter() for _ in clusters]
    for number in reversed(range(len(clusters)) if names else ()):
        start, stop, children = clusters[number]
        for child in children:
            counts[number].update(counts[child])
        if not children:
            seen = min(stop - start, _MAX_ROWS)
            taken = ids[start + np.arange(seen) * (stop - start) // seen]
            weight = (stop - start) / seen
            for name, values in view.attributes_of(taken).items():
                if name in names:
                    for value, count in Counter(filter(None, values)).items():
                        counts[number][name, value] += count * weight  # type: ignore[assignment]
    return [
        _largest(own, stop - start) for own, (start, stop, _) in zip(counts, clusters, strict=True)
    ]


def _largest(counts: Counter[tuple[str, str]], size: int) -> tuple[Label, ...]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    labels = (Label(*key, min(1.0, count / size)) for key, count in ranked[:_MAX_LABELS])
    return tuple(label for label in labels if label.share >= _MIN_SHARE)
