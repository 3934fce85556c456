"""Rows as they are listed."""

from __future__ import annotations

import json

import numpy as np

from hyperpq import HiHPQIndex
from hyperpq.io.list_rows import list_rows


def test_numbers_that_json_does_not_have(tmp_path):
    """The line of an infinite value was no JSON."""
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    index = HiHPQIndex(8, 2, device="cpu")
    index.train(x, epochs=0)
    index.add(x, attributes={"price": [np.inf, -np.inf, np.nan, 0.5], "year": [1, 2, 3, 4]})
    index.save(tmp_path / "index")
    rows = [row.to_dict() for row in list_rows(tmp_path / "index")]
    json.dumps(rows, allow_nan=False)
    assert [row["price"] for row in rows] == [None, None, None, 0.5]
    assert rows[3] == {"id": 3, "price": 0.5, "year": 4}
