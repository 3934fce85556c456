"""`columns_of`: what the conditions of searches can name."""

from __future__ import annotations

from hyperpq.images.moves import HASH
from hyperpq.index.view import RowView
from hyperpq.server.schemas import Column

# More different strings are no choice that anybody reads.
_MOST_VALUES = 1000
_TYPES = {"category": "text", "path": "text", "time": "time", "bool": "bool"}


def columns_of(rows: RowView, kind: str) -> list[Column]:
    """The columns of an index of images or vectors, by names, and at last ``id`` and ``path``."""
    found = []
    for name, stored in sorted(rows.schema.items()):
        if name in (HASH, "path"):
            continue
        values = rows.categories_of(name) if stored == "category" else None
        if values is not None and len(values) > _MOST_VALUES:
            values = None
        found.append(Column(name=name, type=_type(stored), values=values))
    found.append(Column(name="id", type="whole number"))
    return [*found, Column(name="path", type="text")] if kind == "images" else found


def _type(stored: str) -> str:
    if stored in _TYPES:
        return _TYPES[stored]
    return "number" if stored.startswith("float") else "whole number"
