"""Similarities of files: copies, altered copies, and indexes without kept features."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from image_tools import build, image
from PIL import Image

from benchmarks.similarity import EDGES, Steps, of_images, table
from hyperpq import ImageIndex


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 images, some of them in several places and formats."""
    folder = tmp_path_factory.mktemp("similar") / "p"
    (folder / "other").mkdir(parents=True)
    for seed in range(60):
        image(seed, (128, 96)).save(folder / f"{seed:02}.png")
    shutil.copy(folder / "07.png", folder / "other/copy.png")
    Image.open(folder / "07.png").save(folder / "other/lossless.tif")
    return folder


@pytest.fixture(scope="module")
def index(folder):
    return build([folder], folder.parent / "index", bits=32)[0]


def altered(picture):
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=60)
    yield Image.open(data)
    yield picture.resize((90, 70))
    yield picture.crop((2, 2, 126, 94))


def test_copies_are_100_and_first_whatever_their_format(folder, index):
    for query in ("07.png", "other/copy.png", "other/lossless.tif"):
        [answer] = index.query(folder / query, 10)
        names = [result.path.removeprefix(f"{folder}/") for result in answer.results]
        assert sorted(names[:3]) == ["07.png", "other/copy.png", "other/lossless.tif"]
        assert [r.similarity for r in answer.results[:3]] == [100] * 3
        assert max(r.similarity for r in answer.results[3:]) <= 99
        [answer] = index.query(folder / query, 2, exclude_self=True)
        assert [r.similarity for r in answer.results] == [100] * 2
        [answer] = index.query(folder / query, 60, min_similarity=100)
        assert len(answer.results) == 3


def test_an_altered_copy_is_above_other_images(folder, index):
    for number in range(20):
        original = folder / f"{number:02}.png"
        for copy in altered(Image.open(original)):
            [answer] = index.query(copy, 62)
            found = {r.path: r.similarity for r in answer.results}
            assert len(found) == 62
            assert found[str(original)] >= 80
            assert found[str(original)] > np.median(list(found.values())) + 20


def test_an_index_without_features_tells_similarities_by_codes(folder, tmp_path):
    index, _ = build([folder], tmp_path / "index", bits=32, features="none")
    [answer] = index.query(folder / "07.png", 62)
    assert {r.path for r in answer.results if r.similarity == 100} >= {
        str(folder / name) for name in ("07.png", "other/copy.png", "other/lossless.tif")
    }
    assert min(r.similarity for r in answer.results) < 20
    assert ImageIndex.open(tmp_path / "index").index.calibration.like is None


def test_the_benchmark_counts_each_image_once(index, monkeypatch):
    monkeypatch.setattr("benchmarks.similarity.ImageIndex.open", lambda path: index)
    found = of_images(index.index.path, 10)
    assert isinstance(found, Steps)
    assert found.images.sum() == pytest.approx(61)
    assert found.altered.sum() == pytest.approx(1)
    known = ~np.isnan(found.same)
    assert ((found.same[known] >= 0) & (found.same[known] <= 1)).all()
    text = table({"p": found})
    assert len(text.splitlines()) == len(EDGES) + 2
    assert "| 99 and 100 |" in text
