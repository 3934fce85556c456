"""Commits: the order of their system calls, and how much they hold in memory."""

from __future__ import annotations

import os
import weakref

from store_tools import make_rows, make_store

from hyperpq.store import IndexStore, Shard, segments


def test_commit_syncs_before_it_names(tmp_path, monkeypatch):
    """Every file is synced before it gets its name, and every name before the manifest tells."""
    store = make_store(tmp_path / "index")
    events = []
    opened = {}

    def traced(name, real, note):
        def call(*arguments, **options):
            result = real(*arguments, **options)
            note(arguments, result)
            named = [opened.get(a) if isinstance(a, int) else a for a in arguments[:2]]
            events.append((name, *[str(a) for a in named]))
            return result

        monkeypatch.setattr(os, name, call)

    traced("open", os.open, lambda arguments, result: opened.update({result: arguments[0]}))
    traced("pwrite", os.pwrite, lambda *_: None)
    traced("fsync", os.fsync, lambda *_: None)
    traced("replace", os.replace, lambda *_: None)
    store.commit(append=[make_rows(3, first=30)], delete={0: [2]})

    root = str(store.path)
    renames = [i for i, event in enumerate(events) if event[0] == "replace"]
    targets = [os.path.relpath(events[i][2], root) for i in renames]
    assert targets == ["dead/000000-00000004.h5", "shards/000002.h5", "manifest.json"]
    for i in renames:
        source = events[i][1]
        last_write = max(j for j, e in enumerate(events) if e[0] == "pwrite" and e[1] == source)
        assert any(e[:2] == ("fsync", source) for e in events[last_write:i])
    for folder in ("dead", "shards"):
        assert ("fsync", f"{root}/{folder}") in [e[:2] for e in events[renames[1] : renames[2]]]
    assert ("fsync", root) in [e[:2] for e in events[: renames[0]]]
    assert ("fsync", root) in [e[:2] for e in events[renames[2] :]]


def test_one_appended_segment_is_in_memory_at_a_time(tmp_path):
    made: list[weakref.ref] = []

    def segments():
        for first in (0, 10, 20):
            assert all(rows() is None for rows in made)
            rows = make_rows(10, first=first)
            made.append(weakref.ref(rows))
            yield rows
            del rows

    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=segments())
    assert store.ntotal == 30


def test_compaction_has_one_segment_in_memory_at_a_time(tmp_path, monkeypatch):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=[make_rows(10, first=i, feature_size=3) for i in (0, 10, 20)])
    store.commit(delete={0: [1], 1: [2], 2: [3]})
    monkeypatch.setattr(segments, "MAX_COMPACTED_ROWS", 10)
    made: list[weakref.ref] = []

    def take(shard, numbers, original=Shard.take, **options):
        assert all(rows() is None for rows in made)
        rows = original(shard, numbers, **options)
        made.append(weakref.ref(rows))
        return rows

    monkeypatch.setattr(Shard, "take", take)
    assert store.compact()
    assert [shard.n for shard in store.segments] == [9, 9, 9]
    assert len(made) == 3


def test_fast_durability_leaves_out_every_fsync(tmp_path, monkeypatch):
    store = make_store(tmp_path / "index")
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store.durability = "fast"
    store.commit(append=[make_rows(3, first=30)], delete={0: [2]})
    assert synced == []
    assert IndexStore.open(store.path, verify=True).ntotal == 12
    store.durability = "full"
    store.commit(next_id=99)
    assert synced
