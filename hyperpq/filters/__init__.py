"""Which rows are searched: conditions on attributes (`Where`) and sets of ids (`IDSelector`).

The selectors have the names of those in FAISS. `SearchParameters` combines a selector and a
condition.
"""

from hyperpq.filters.selectors import (
    IDSelector,
    IDSelectorAll,
    IDSelectorAnd,
    IDSelectorArray,
    IDSelectorBatch,
    IDSelectorBitmap,
    IDSelectorNot,
    IDSelectorOr,
    IDSelectorRange,
    IDSelectorXOr,
    SearchParameters,
)
from hyperpq.filters.where import Where

__all__ = [
    "IDSelector",
    "IDSelectorAll",
    "IDSelectorAnd",
    "IDSelectorArray",
    "IDSelectorBatch",
    "IDSelectorBitmap",
    "IDSelectorNot",
    "IDSelectorOr",
    "IDSelectorRange",
    "IDSelectorXOr",
    "SearchParameters",
    "Where",
]
