"""Paths of images that have moved with their folder or with the index are shown where they are."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq import HiHPQIndex, deserialize_index, serialize_index
from hyperpq.errors import CorruptIndexError, UnknownIdError
from hyperpq.index.path_map import PathMap, Root, relative_to, with_roots
from hyperpq.store.strings import Strings

names = st.lists(st.sampled_from([b"a", b"b", b":", b"a:"]), min_size=1, max_size=3)
absolute = names.map(lambda parts: b"/" + b"/".join(parts))


@given(st.dictionaries(absolute, absolute, max_size=3), absolute)
def test_every_path_is_stored_so_that_it_is_shown(pairs, path):
    """Whatever folders have taken the places of others."""
    path_map = PathMap.from_roots([Root(now, stored) for stored, now in pairs.items()], None)
    stored = path_map.stored(path)
    assert path_map.shown(stored) == path
    assert path_map.shown_strings(Strings.from_list([stored, b"x"])).tolist() == [path, b"x"]


@given(st.dictionaries(absolute, absolute, max_size=3), st.lists(absolute))
def test_a_column_is_shown_like_its_paths(pairs, paths):
    path_map = PathMap.from_roots([Root(now, stored) for stored, now in pairs.items()], None)
    shown = path_map.shown_strings(Strings.from_list(paths)).tolist()
    assert shown == [path_map.shown(path) for path in paths]


@pytest.fixture(scope="module")
def trained():
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    index = HiHPQIndex(8, M=2, device="cpu")
    index.train(x, epochs=0)
    return index, x


@pytest.fixture
def moved(trained, tmp_path):
    """An index that has moved from ``old/index`` to ``new/index``, and its images with it."""
    index, x = trained[0].clone(), trained[1]
    old, new = os.fsencode(tmp_path / "old"), os.fsencode(tmp_path / "new")
    paths = [old + b"/p/a.png", old + b"/p/caf\xe9.png", old + b"/pp/b.png"]
    root = Root(old + b"/p", old + b"/p", relative_to(old + b"/p", tmp_path / "old/index"))
    index.metadata = with_roots({"mine": 1}, [root])
    index.collection.add(index.encode(x[:3]), paths=paths)
    index.save(tmp_path / "old/index")
    (tmp_path / "old/p").mkdir()
    (tmp_path / "old").rename(tmp_path / "new")
    shown = [new + b"/p/a.png", new + b"/p/caf\xe9.png", old + b"/pp/b.png"]
    return HiHPQIndex.load(tmp_path / "new/index", device="cpu"), shown


def paths_of(index):
    return [path for rows in index.collection.view().batches() for path in rows.paths]


def test_an_index_that_moved_with_its_images_shows_where_they_are(moved, tmp_path):
    index, shown = moved
    view = index.collection.view()
    assert paths_of(index) == view.paths_of([0, 1, 2]) == shown
    folder = os.fspath(tmp_path / "new/p/")
    assert view.select(where=f"startswith(path, '{folder}/')").tolist() == [0, 1]
    index.remove_ids(where=f"path == '{folder}/a.png'")
    assert paths_of(index) == shown[1:]
    # Where both places exist, the recorded one counts.
    (tmp_path / "old/p").mkdir(parents=True)
    again = HiHPQIndex.load(tmp_path / "new/index", device="cpu")
    assert paths_of(again)[0] == os.fsencode(tmp_path / "old/p/caf") + b"\xe9.png"


def test_new_rows_have_the_paths_that_they_were_given(moved, trained, tmp_path):
    index, shown = moved
    new = [os.fsencode(tmp_path / name) for name in ("new/p/c.png", "old/p/c.png", "else/d.png")]
    index.collection.add(index.encode(trained[1][:3]), paths=new)
    assert paths_of(index) == shown + new


def test_colons_are_not_shown_when_no_folder_is_elsewhere_any_more(moved, trained, tmp_path):
    index, _ = moved
    new = [os.fsencode(tmp_path / "old/p/c.png")]
    index.collection.add(index.encode(trained[1][:1]), paths=new)
    for roots in ([Root(b"/other", b"/other")], []):
        index.metadata = with_roots(index.metadata, roots)
        again = HiHPQIndex.load(tmp_path / "new/index", device="cpu")
        assert again.collection.view().paths_of([3]) == new
        assert paths_of(again)[3:] == new
        name = os.fsdecode(new[0])
        assert again.collection.view().select(where=f"path == '{name}'").tolist() == [3]


def test_a_path_of_an_index_of_vectors_is_what_it_is(trained, tmp_path):
    index = trained[0].clone()
    index.collection.add(index.encode(trained[1][:1]), paths=[b":/a"])
    index.save(tmp_path / "index")
    assert paths_of(HiHPQIndex.load(tmp_path / "index", device="cpu")) == [b":/a"]


def test_copies_have_the_paths_that_are_shown(moved, tmp_path):
    index, shown = moved
    index.save(tmp_path / "deep/er/copy")
    copies = [
        index.clone(),
        deserialize_index(serialize_index(index), device="cpu"),
        HiHPQIndex.load(tmp_path / "deep/er/copy", device="cpu"),
    ]
    for copied in copies:
        assert paths_of(copied) == shown
        assert copied.metadata["mine"] == 1
    # The folder of the images is found from the place of the copy, too.
    (tmp_path / "new").rename(tmp_path / "deep/new")
    (tmp_path / "deep").rename(tmp_path / "other")
    assert paths_of(HiHPQIndex.load(tmp_path / "other/er/copy", device="cpu"))[0] == shown[0]
    (tmp_path / "other/new").rename(tmp_path / "new")
    merged = index.clone()
    merged.reset()
    merged.merge_from(HiHPQIndex.load(tmp_path / "new/index", device="cpu"))
    assert paths_of(merged) == shown


@pytest.mark.parametrize(
    "roots",
    [
        *(5, "x", [5], [{}], [{"path": "x"}], [{"path": "a", "stored": "/a"}], {"path": "/a"}),
        *([{**Root(b"/a", b"/a").to_stored(), "mount": no}] for no in (5, "", "/\0b", "a", ["/"])),
    ],
)
def test_roots_that_are_not_valid_are_named(trained, tmp_path, roots):
    index = trained[0].clone()
    index.collection.add(index.encode(trained[1][:1]), paths=[b"/a"])
    index.metadata = {"pictures": {"roots": roots}}
    index.save(tmp_path / "index")
    with pytest.raises(CorruptIndexError, match="roots in the metadata of the index are not valid"):
        paths_of(HiHPQIndex.load(tmp_path / "index", device="cpu"))


def test_rows_get_other_paths_and_keep_their_codes_and_features(trained, tmp_path):
    x = trained[1][:5]
    index = HiHPQIndex.from_codec(trained[0].codec, features="int8", device="cpu")
    width = np.arange(5)
    index.collection.add(
        index.encoded(x).codes,
        paths=[b"/%d" % i for i in range(5)],
        attributes={"width": width, "height": width},
        features=index.encoded(x).features,
    )
    before = index.codes_of(range(5)), index.features_of(range(5))
    for place in (None, tmp_path / "index"):
        if place:
            index.save(place)
        index.collection.relabel([3, 1], paths=[b"/c", b"/a"], attributes={"width": [33, 11]})
        index.collection.relabel([], paths=[])
        assert index.paths_of(range(5)) == [b"/0", b"/a", b"/2", b"/c", b"/4"]
        assert index.attributes_of(range(5))["width"].tolist() == [0, 11, 2, 33, 4]
        assert index.attributes_of(range(5))["height"].tolist() == [0, 1, 2, 3, 4]
        assert (index.codes_of(range(5)) == before[0]).all()
        assert (index.features_of(range(5)) == before[1]).all()
    with pytest.raises(UnknownIdError):
        index.collection.relabel([0, 9], paths=[b"/x", b"/y"])
    assert index.paths_of([0]) == [b"/0"]
