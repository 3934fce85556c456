"""Metadata of an index: read-only in place, checked when assigned, and never lost."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from index_tools import Unchanged, X

from hyperpq import HiHPQIndex, write_index
from hyperpq.errors import InvalidInputError, StoreError

FACTS = {"made": "here", "sizes": [1, 2.5, None, True], "deep": {"a": [{"b": "c"}], "é": {}}}


def test_metadata_that_json_cannot_hold(make, tmp_path):
    index = make(X)
    index.metadata = {"made": "here"}
    for value in ({"a": {1, 2}}, {"a": float("nan")}, {"a": b"bytes"}, [1], "text", None):
        with Unchanged(index, InvalidInputError, "metadata"):
            index.metadata = value
        assert index.metadata == {"made": "here"}


def test_metadata_is_stored_with_the_index(make, tmp_path):
    index = make(X)
    assert index.metadata == {}
    index.metadata = FACTS
    index.save(tmp_path / "a")
    assert index.metadata == FACTS
    assert HiHPQIndex.load(tmp_path / "a", device="cpu").metadata == FACTS


def test_a_change_after_loading_is_stored_at_once(make, tmp_path):
    index = make(X)
    index.metadata = FACTS
    index.save(tmp_path / "a")
    opened = HiHPQIndex.load(tmp_path / "a", device="cpu")
    opened.metadata = {**opened.metadata, "made": "elsewhere", "count": 3}
    again = HiHPQIndex.load(tmp_path / "a", device="cpu", verify=True)
    assert again.metadata == FACTS | {"made": "elsewhere", "count": 3}
    assert again.ntotal == 300
    # Later changes keep it, and so does a copy.
    again.add(X[:5])
    again.remove_ids([0])
    write_index(again, tmp_path / "b")
    for path in ("a", "b"):
        stored = HiHPQIndex.load(tmp_path / path, device="cpu")
        assert (stored.metadata["count"], stored.ntotal) == (3, 304)
    assert again.clone().metadata == again.metadata
    # One that was opened before sees it once it looks again.
    assert index.metadata == FACTS
    with pytest.raises(StoreError, match="refresh the index"):
        index.metadata = {}
    assert index.refresh()
    assert index.metadata == again.metadata


CHANGES = {
    "set": lambda m: m.__setitem__("made", 1),
    "delete": lambda m: m.__delitem__("made"),
    "update": lambda m: m.update(made=1),
    "clear": lambda m: m.clear(),
    "pop": lambda m: m.pop("made"),
    "popitem": lambda m: m.popitem(),
    "setdefault": lambda m: m.setdefault("x", 1),
    "or": lambda m: m.__ior__({"x": 1}),
    "set deep": lambda m: m["deep"].__setitem__("a", 1),
    "set deeper": lambda m: m["deep"]["a"][0].__setitem__("b", 1),
    "append": lambda m: m["sizes"].append(1),
    "extend": lambda m: m["sizes"].extend([1]),
    "insert": lambda m: m["sizes"].insert(0, 1),
    "remove": lambda m: m["sizes"].remove(1),
    "sort": lambda m: m["sizes"].sort(),
    "reverse": lambda m: m["sizes"].reverse(),
    "set item": lambda m: m["sizes"].__setitem__(0, 1),
    "delete item": lambda m: m["sizes"].__delitem__(0),
    "plus": lambda m: m["sizes"].__iadd__([1]),
    "times": lambda m: m["sizes"].__imul__(2),
    "list pop": lambda m: m["sizes"].pop(),
    "list clear": lambda m: m["sizes"].clear(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_place_is_refused(filled, change):
    filled.metadata = FACTS
    with pytest.raises(InvalidInputError, match=r"metadata is read-only.*index\.metadata = "):
        CHANGES[change](filled.metadata)
    assert filled.metadata == FACTS


def test_what_was_assigned_can_change_later(filled):
    facts = copy.deepcopy(FACTS)
    filled.metadata = facts
    facts["deep"]["a"].append(5)
    assert filled.metadata == FACTS


def test_copies_are_ordinary(filled):
    filled.metadata = FACTS
    for copied in (
        copy.deepcopy(filled.metadata),
        pickle.loads(pickle.dumps(filled.metadata)),
        json.loads(json.dumps(filled.metadata)),
    ):
        assert copied == FACTS
        copied["deep"]["a"][0]["b"] = "changed"
        copied["sizes"].append(1)
        filled.metadata = copied
        assert filled.metadata == copied
        filled.metadata = FACTS


def test_values_are_those_that_are_read_back(make):
    index = make()
    index.metadata = {"pair": (1, 2), 5: "five", "float": np.float64(0.5)}
    assert index.metadata == {"pair": [1, 2], "5": "five", "float": 0.5}


def test_another_length_keeps_the_metadata(make):
    index = make(X)
    index.metadata = FACTS
    assert index.with_bits(16).metadata == FACTS
