"""The changes of an index that the tests of faults interrupt, each of them one commit."""

from __future__ import annotations

from pathlib import Path

from fault_tools import (
    CODEC,
    CODES,
    FEATURES,
    KEPT,
    RELEARNED,
    RELEARNED_CODES,
    add,
    columns_of,
    is_relearned,
    new_index,
    store_of,
    update,
    vector_numbers,
)

from hyperpq import HiHPQIndex
from hyperpq.codec.serialization import to_files
from hyperpq.store import Rows, live_batches


def rows_of(ids, version: int = 0) -> Rows:
    columns = columns_of(ids, version)
    numbers = vector_numbers(ids, version)
    labels = columns["version"] * 0 + list(ids)
    return Rows(CODES[numbers], labels, columns, features=FEATURES[numbers])


def make_index(path: Path) -> HiHPQIndex:
    """Three segments of 40, 12 and 5 rows with features, two of them with removed rows."""
    index = new_index(features=KEPT.kind)
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


def relearn(index: HiHPQIndex) -> None:
    """Give all rows codes of another codec, and the index that codec; it must be opened again."""
    store = store_of(index)
    codec, codes = (CODEC, CODES) if is_relearned(store) else (RELEARNED, RELEARNED_CODES)
    recoded = (
        Rows(
            codes[vector_numbers(rows.ids, rows.attribute("version"))],
            rows.ids,
            rows.attributes,
            rows.path_strings,
            rows.features,
        )
        for rows in live_batches(store.segments)
    )
    store.commit(append=recoded, drop=range(len(store.segments)), files=to_files(codec))


OPERATIONS = {
    "commit": commit,
    "add that joins segments": joining_add,
    "remove_ids": lambda index: index.remove_ids([0, 1, 44, *range(52, 57)]),
    "update": lambda index: update(index, [2, 41, 53], 9),
    "compact": lambda index: index.compact(),
    "reset": lambda index: index.reset(),
    "relearn": relearn,
}
