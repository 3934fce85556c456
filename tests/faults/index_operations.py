"""The changes of an index that the tests of faults interrupt, each of them one commit."""

from __future__ import annotations

from pathlib import Path

from fault_tools import CODES, add, columns_of, new_index, store_of, update, vector_numbers

from hyperpq import HiHPQIndex
from hyperpq.store import Rows


def rows_of(ids, version: int = 0) -> Rows:
    columns = columns_of(ids, version)
    return Rows(CODES[vector_numbers(ids, version)], columns["version"] * 0 + list(ids), columns)


def make_index(path: Path) -> HiHPQIndex:
    """Three segments of 40, 12 and 5 rows, two of them with removed rows."""
    index = new_index()
    index.save(path)
    store_of(index).commit(
        append=[rows_of(range(40)), rows_of(range(40, 52)), rows_of(range(52, 57))], next_id=57
    )
    index.remove_ids([3, 39, 45])
    return index


def commit(index: HiHPQIndex) -> None:
    store_of(index).commit(
        append=[rows_of([60, 61]), rows_of([70])], delete={0: [5]}, drop=[2], next_id=71
    )


def joining_add(index: HiHPQIndex) -> None:
    add(index, range(100, 110))


OPERATIONS = {
    "commit": commit,
    "add that joins segments": joining_add,
    "remove_ids": lambda index: index.remove_ids([0, 1, 44, *range(52, 57)]),
    "update": lambda index: update(index, [2, 41, 53], 9),
    "compact": lambda index: index.compact(),
    "reset": lambda index: index.reset(),
}
