"""What the tests of the store share: rows, stores, and what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hyperpq.store import Categories, IndexStore, Rows, Segment, Store, live_batches


def make_rows(
    n: int, code_size: int = 4, first: int = 0, paths: bool = True, feature_size: int = 0
) -> Rows:
    rng = np.random.default_rng(first + n)
    return Rows(
        codes=rng.integers(0, 256, (n, code_size), np.uint8),
        ids=np.arange(first, first + n),
        attributes={
            name: rng.integers(0, 99, n).astype(name, copy=False) for name in ("int32", "float64")
        },
        paths=[b"dir\xff/%d" % i for i in range(first, first + n)] if paths else None,
        features=rng.integers(0, 256, (n, feature_size), np.uint8) if feature_size else None,
    )


def make_store(path: Path, feature_size: int = 0) -> IndexStore:
    """Shards of 5 and 7 rows, with two rows of the second deleted."""
    store = IndexStore.create(
        path, settings={"score": "l1"}, files={"codec.safetensors": b"c" * 99}
    )
    batches = [make_rows(n, first=i, feature_size=feature_size) for n, i in ((5, 0), (7, 5))]
    store.commit(append=batches, next_id=12)
    store.commit(delete={1: np.array([6, 0])})
    return store


def assert_same_rows(stored: Segment, rows: Segment) -> None:
    assert stored.n == rows.n
    assert stored.code_size == rows.code_size
    assert stored.feature_size == rows.feature_size
    if rows.features is None:
        assert stored.features is None
    else:
        np.testing.assert_array_equal(stored.features, rows.features, strict=True)
    np.testing.assert_array_equal(stored.codes, rows.codes, strict=True)
    np.testing.assert_array_equal(stored.tiled.rows(), rows.codes, strict=True)
    np.testing.assert_array_equal(stored.ids, rows.ids, strict=True)
    assert stored.schema == rows.schema
    assert stored.attribute_names == rows.attribute_names
    for name in rows.attribute_names:
        column, expected = stored.attribute(name), rows.attribute(name)
        if isinstance(expected, Categories):
            assert column.strings() == expected.strings()
        else:
            np.testing.assert_array_equal(column, expected, strict=True)
    assert stored.paths == rows.paths
    if rows.paths is not None:
        assert [stored.path(row) for row in range(rows.n)] == rows.paths


def contents(store: Store) -> dict[int, tuple]:
    """Live rows by id: code, path, attributes in the order of their names, and features if any."""
    out = {}
    for rows in live_batches(store.segments):
        columns = [rows.attribute(name) for name in rows.attribute_names]
        values = [c.strings() if isinstance(c, Categories) else c.tolist() for c in columns]
        if rows.features is not None:
            values.append([row.tobytes() for row in rows.features])
        paths = rows.paths or [None] * rows.n
        facts = zip(rows.codes.tolist(), paths, *values, strict=True)
        batch = {
            id: (tuple(code), *rest)
            for id, (code, *rest) in zip(rows.ids.tolist(), facts, strict=True)
        }
        assert not out.keys() & batch.keys()
        out |= batch
    return out


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def forged(content: dict) -> bytes:
    """The bytes of a manifest with a right checksum."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    content["checksum"] = xxhash.xxh3_128_hexdigest(canonical(content))
    return canonical(content) + b"\n"


def rewrite_manifest(root: Path, change: Callable[[dict], Any]) -> None:
    """Change the manifest's content and give it a right checksum, as a forger would."""
    path = root / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_bytes(forged(content))
