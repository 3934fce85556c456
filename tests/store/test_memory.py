"""`MemoryStore`."""

from __future__ import annotations

import numpy as np
from conformance import StoreTests
from store_tools import contents, make_rows

from hyperpq.store import MemoryStore


class TestMemoryStore(StoreTests):
    def create(self, folder):
        return MemoryStore()


def test_deleted_rows_leave_at_once():
    store = MemoryStore()
    store.commit(append=[make_rows(5)])
    before = store.segments
    store.commit(delete={0: np.array([1, 2])})
    assert [segment.n for segment in store.segments] == [3]
    assert store.n_deleted == 0
    # Whoever has the segments of before keeps them.
    assert [segment.n for segment in before] == [5]
    assert contents(store).keys() == {0, 3, 4}
