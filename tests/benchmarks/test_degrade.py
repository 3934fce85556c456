"""The benchmark of quality against the size of the database, on a few random rows."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import degrade
from benchmarks.degrade import Exact, base_rows, blocks, made_rows, measures, run
from benchmarks.degrade_page import Key, finding, read_runs, write_degrade_page
from benchmarks.runlog import RunLog
from hyperpq.backbones.base import Backbone
from hyperpq.datasets.augment import PAPER
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.evaluation import knn


def rows(n, d=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_blocks_end_at_the_sizes():
    source = iter([rows(7), rows(30, seed=1), rows(100, seed=2)])
    found = list(blocks(source, [5, 20, 40]))
    assert [size for _, size in found] == [5, None, 20, None, 40]
    want = np.concatenate([rows(7), rows(30, seed=1), rows(100, seed=2)])[:40]
    np.testing.assert_array_equal(np.concatenate([block for block, _ in found]), want)


def test_too_few_rows_reach_no_further_size():
    assert [size for _, size in blocks(iter([rows(9)]), [5, 20])] == [5, None]


def test_exact_search_of_a_growing_database_is_that_of_the_whole():
    query, database = rows(20, seed=3), rows(300)
    exact = Exact(query, 7, "cpu")
    for start in range(0, 300, 64):
        exact.add(database[start : start + 64])
    (found,) = exact.search(query, 7).values()
    np.testing.assert_array_equal(found, knn(query, database, 7)[1])


def test_measures():
    found = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
    truth = np.array([[0, 1, 2, 3, 4, 15, 16, 17, 18, 19]])
    relevant = np.array([[True] + [False] * 9])
    assert measures(found, truth, relevant) == {
        "map10": 1.0,
        "map100": 1.0,
        "map1000": 1.0,
        "precision10": 0.1,
        "recall10": 0.5,
    }


class Flat:
    """Codes that are the rows themselves."""

    def __init__(self):
        self.rows = []

    def add(self, x):
        self.rows.append(x)

    def search(self, query, k):
        all_rows = np.concatenate(self.rows)
        return {"": knn(query, all_rows, min(k, len(all_rows)))[1]}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Four classes around four centres, and distractors that are near the first of them."""
    centres = 5 * rows(4)
    labels = np.repeat(np.arange(4), 10)
    database = centres[labels] + rows(40, seed=1)
    near = np.tile(centres[:1], (60, 1)) + 0.1 * rows(60, seed=2)

    def relevant(query_rows, found):
        return labels[:4][:, None] * 0 + np.arange(4)[:, None] == labels[found]

    features = SimpleNamespace(
        query=centres,
        database=database,
        train=database,
        folder=tmp_path / "made",
        protocol=SimpleNamespace(database=SimpleNamespace(labels=labels), relevant=relevant),
    )
    make = degrade.make_method
    monkeypatch.setattr(
        degrade,
        "make_method",
        lambda name, *rest: make(name, *rest) if name == "exact raw" else Flat(),
    )
    monkeypatch.setattr(degrade, "DEPTH", 10)
    args = argparse.Namespace(
        methods=["hyperpq default"], sizes=[40, 100], bits=64, seed=0, device="cpu",
        others=["near"], backbone="lite0", images=None, precision="float32",
    )  # fmt: skip
    log = RunLog(tmp_path / "runs" / "degrade.jsonl", Key._fields)
    run(features, iter([near]), args, log)
    return tmp_path, log


def test_distractors_are_relevant_to_nobody(measured):
    _, log = measured
    values = {(key[1], key[3]): run for key, run in log.runs.items()}
    assert len(values) == 4
    for method in ("exact raw", "hyperpq default"):
        assert values[method, 40]["precision10"] == 1
        # The ten nearest of the first class are distractors now.
        assert values[method, 100]["precision10"] == 0.75
        assert values[method, 100]["recall10"] == 1


def test_the_page(measured):
    folder, _ = measured
    pytest.importorskip("matplotlib")
    text = write_degrade_page(folder).read_text("utf-8")
    assert "| exact raw | 1.000 | .750 |" in text
    assert "hyperpq default from 1.000 to .750 (-25.0 %)" in finding(read_runs(folder))
    assert "Distractors are images and views of near-lite0." in text
    assert (folder / "degrade-made-64.svg").exists()


def test_the_first_rows_have_every_class():
    labels = np.repeat(np.arange(4), 100)
    features = SimpleNamespace(protocol=SimpleNamespace(database=SimpleNamespace(labels=labels)))
    chosen = base_rows(features, 40)
    assert np.abs(np.bincount(labels[chosen]) - 10).max() <= 1
    assert len(base_rows(features, 1000)) == 400


class Means(Backbone):
    def __init__(self):
        super().__init__("means", 3, Preprocessing(16), "0" * 32, "cpu", mean=None, std=None)

    def _features(self, pixels):
        return pixels.mean((1, 2), dtype=np.float64).astype(np.float32)


def test_made_rows_are_views_of_images_and_none_is_like_another(tmp_path, monkeypatch):
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    monkeypatch.setattr(degrade, "load_backbone", lambda *_, **__: Means())
    source = made_rows(tmp_path, "lite0", "cpu", "float32", PAPER, 0)
    first = np.concatenate([next(source) for _ in range(3)])
    assert first.shape == (15, 3)
    assert len(np.unique(first, axis=0)) == 15
    again = made_rows(tmp_path, "lite0", "cpu", "float32", PAPER, 0)
    np.testing.assert_array_equal(next(again), first[:5])
