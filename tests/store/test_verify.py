"""`verify_directory`: what it finds, and where."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import make_rows, make_store

from hyperpq.errors import CorruptIndexError
from hyperpq.store import IndexStore, Rows, verify
from hyperpq.utils.files import CHECKSUM_BLOCK


def test_verify_finds_ids_that_occur_twice_among_live_rows(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=[make_rows(5), make_rows(5, first=3)])
    (problem,) = store.verify()
    assert problem.kind == "damage"
    assert problem.what == "2 ids occur more than once; the first is 3."
    store.commit(delete={0: [3]})
    (problem,) = store.verify()
    assert problem.what == "the id 4 occurs more than once."
    store.commit(delete={1: [1]})
    assert store.verify() == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shards=st.integers(0, 5), n=st.integers(1, 60))
def test_repeated_ids_are_found_in_all_ranges(seed, shards, n):
    rng = np.random.default_rng(seed)
    found, live = [], []
    for _ in range(shards):
        ids = np.sort(rng.choice(200, n, replace=False))
        deleted = np.flatnonzero(rng.random(n) < 0.2)
        found.append((ids, deleted))
        live += np.delete(ids, deleted).tolist()
    repeated = sorted(id for id, times in Counter(live).items() if times > 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_SAMPLED", 4)
        problems = list(verify._repeated_ids(found))
        assert max(map(len, verify._by_range(found))) <= 4 * 4 + 4 * shards
    if not repeated:
        assert problems == []
        return
    first = f"{len(repeated)} ids occur more than once; the first is {repeated[0]}."
    if len(repeated) == 1:
        first = f"the id {repeated[0]} occurs more than once."
    assert [problem.what for problem in problems] == [first]


def test_verify_lists_garbage_and_opening_ignores_it(tmp_path):
    store = make_store(tmp_path / "index")
    garbage = ["shards/000002.h5", "shards/.000002.h5.tmp", ".manifest.json.0a.tmp", "notes.doc"]
    for name in garbage:
        (store.path / name).write_bytes(b"torn")
    problems = IndexStore.open(store.path, verify=True).verify()
    assert sorted(p.file for p in problems) == sorted(garbage)
    assert {p.kind for p in problems} == {"garbage"}
    store.commit(append=[make_rows(3, first=20)])
    assert "shards/000002.h5" not in [p.file for p in store.verify()]


@pytest.mark.parametrize(
    ("torn", "more"),
    [(1, ""), (2, " There is 1 more problem."), (3, " There are 2 more problems.")],
)
def test_opening_names_one_problem_and_counts_the_others(tmp_path, torn, more):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=[make_rows(3, first=3 * i) for i in range(3)])
    for shard in store.segments[:torn]:
        (store.path / shard.entry.file).unlink()
    with pytest.raises(CorruptIndexError) as caught:
        IndexStore.open(store.path, verify=True)
    missing = next(problem for problem in store.verify() if problem.kind == "damage")
    assert str(caught.value) == f"{store.path / missing.file}: {missing.what}{more}"


def test_damage_is_located(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    n = CHECKSUM_BLOCK // 8 + 1000
    kept = np.zeros((n, 2), np.uint8)
    store.commit(append=[Rows(np.zeros((n, 4), np.uint8), np.arange(n), features=kept)])
    (shard,) = store.segments
    assert len(shard.entry.content.checksums) == 2
    path = tmp_path / "index" / shard.entry.file
    assert "features" in shard.entry.columns
    with open(path, "r+b") as file:
        file.seek(CHECKSUM_BLOCK + 3)
        file.write(b"x")
    (problem,) = store.verify()
    assert problem.file == shard.entry.file
    inside = [n for n, e in sorted(shard.entry.columns.items()) if e.end > CHECKSUM_BLOCK]
    assert problem.what == (
        f"the checksum is wrong in 1 of 2 blocks of {CHECKSUM_BLOCK} bytes, first at byte "
        f"{CHECKSUM_BLOCK}; {', '.join('/' + name for name in inside)} lies there."
    )
