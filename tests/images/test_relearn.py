"""An index that grows learns its codec again, without decoding an image and in one commit."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from image_tools import Grid, build, fill, tree, update

from hyperpq import ImageIndex
from hyperpq.errors import InvalidInputError
from hyperpq.images import updater
from hyperpq.images.build import update_index
from hyperpq.images.roots import change_roots
from hyperpq.index.collection import Collection
from hyperpq.progress import SilentProgress


@pytest.fixture(scope="session")
def grown(tmp_path_factory):
    """``p`` with 60 images, and ``index``, which learned from 20 of them; not to be changed."""
    folder = tmp_path_factory.mktemp("grown")
    build([fill(folder / "p", 20)], folder / "index", bits=16)
    fill(folder / "p", 40, start=20)
    update([folder / "p"], folder / "index", relearn="never")
    return folder


@pytest.fixture
def place(grown, tmp_path):
    shutil.copytree(grown / "index", tmp_path / "index")
    # It records where its folder is, seen from here.
    change_roots(ImageIndex.open(tmp_path / "index").index, lambda roots: roots)
    return tmp_path


@pytest.fixture
def nothing_is_decoded(monkeypatch):
    def stream(groups, *_):
        assert not any(groups)
        return iter(())

    monkeypatch.setattr(updater, "stream_groups", stream)


def test_an_update_learns_again_from_the_kept_features(grown, place, nothing_is_decoded):
    """An index of 20 images that had grown to 60 kept the codec of the 20."""
    before = ImageIndex.open(place / "index", backbone=Grid())
    assert before.index.training.n == 20
    network, progress = Grid(), SilentProgress()
    index, report = update([grown / "p"], place / "index", network, progress=progress)
    assert report.relearned == "the index learned from 20 images and has 60 now"
    assert (network.seen, report.added, report.removed, len(index)) == (0, 0, 0, 60)
    assert index.index.training.n == 60
    assert index.index.collection.snapshot == before.index.collection.snapshot + 1
    kept = index.index.features_of(range(60))
    assert (kept == before.index.features_of(range(60))).all()
    assert (index.index.codes_of(range(60)) == index.index.codec.encode(kept)).all()
    assert index.index.paths_of(range(60)) == before.index.paths_of(range(60))
    _, report = update([grown / "p"], place / "index", network)
    assert report.relearned is None


def test_the_same_seed_learns_the_same_codec(grown, place, tmp_path):
    shutil.copytree(place / "index", tmp_path / "other")
    update([grown / "p"], place / "index")
    update([grown / "p"], tmp_path / "other", relearn="now")
    for name, data in tree(place / "index").items():
        assert tree(tmp_path / "other")[name] == data or name == "manifest.json"


def test_when_it_is_not_learned_again(grown, place, caplog):
    index, report = update([grown / "p"], place / "index", relearn="never")
    assert (report.relearned, index.index.training.n) == (None, 20)
    assert "the index learned from 20 images and has 60 now" in caplog.text
    assert "--relearn" in caplog.text
    with pytest.raises(InvalidInputError, match="relearn is 'later'; expected 'auto'"):
        update([grown / "p"], place / "index", relearn="later")
    report = index.update(relearn="now")
    assert report.relearned == "it was asked for"


def test_without_features_a_warning_names_the_remedy(tmp_path, caplog):
    folder = fill(tmp_path / "p", 17)
    build([folder], tmp_path / "index", features="none")
    fill(folder, 25, start=20)
    _, report = update([folder], tmp_path / "index")
    assert report.relearned is None
    assert "keeps no features to learn from, so build it anew with --overwrite" in caplog.text
    fill(folder, 1, start=50)
    before = tree(tmp_path / "index")
    with pytest.raises(InvalidInputError, match="the index keeps no features"):
        update([folder], tmp_path / "index", relearn="now")
    assert tree(tmp_path / "index") == before


def test_an_interrupted_update_learns_again_the_next_time(grown, place, monkeypatch):
    """Killed while the codes are made: the index is as it was, with all its images."""
    before = tree(place / "index")

    def recode(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "recode", recode)
        with pytest.raises(KeyboardInterrupt):
            update([grown / "p"], place / "index")
    assert tree(place / "index") == before
    index, report = update([grown / "p"], place / "index")
    assert (len(index), index.index.training.n) == (60, 60)
    assert report.relearned is not None


def test_add_learns_again_too_and_a_change_of_length_is_kept(grown, place, tmp_path):
    more = fill(tmp_path / "more", 10, start=80)
    index, report = update_index(
        [more], place / "index", remove_missing=False, backbone=Grid(), device="cpu"
    )
    assert report.relearned is not None
    index.retrain(bits=8, epochs=0)
    assert index.index.code_size == 1
    again, report = update([more], place / "index", bits=8)
    assert (report.added, again.index.code_size) == (0, 1)
    with pytest.raises(InvalidInputError, match=r"^bits is 16; .* was built with 8"):
        update([more], place / "index", bits=16)


def test_a_given_codec_is_left_alone(grown, place):
    index, _ = build([grown / "p"], place / "short", codec=grown / "index", bits=8)
    os.utime(place)
    fill(place / "more", 70, start=100)
    again, report = update([place / "more"], place / "short")
    assert report.relearned is None
    assert (again.index.codes_of(range(60)) == index.index.codes_of(range(60))).all()


def test_images_after_relearning_are_those_of_one_codec(grown, place):
    """Additions by a process that opened the index before it was learned again."""
    former = ImageIndex.open(place / "index", device="cpu", backbone=Grid())
    former.index.training  # noqa: B018
    update([grown / "p"], place / "index")
    more = fill(place / "more", 3, start=90)
    report = former.update([more], relearn="never")
    assert (report.added, len(former)) == (3, 63)
    index = ImageIndex.open(place / "index", device="cpu", backbone=Grid()).index
    kept = index.features_of(index.ids)
    assert (index.codes_of(index.ids) == index.codec.encode(kept)).all()
    assert np.array_equal(former.index.codes_of(index.ids), index.codes_of(index.ids))
