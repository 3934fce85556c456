"""The report of an index in a real browser, of every kind of codec, and its charts."""

from __future__ import annotations

import os
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from browsing import tab

from hyperpq import HiHPQIndex, Recipe
from hyperpq.codes import unpack
from hyperpq.errors import InvalidInputError
from hyperpq.explore import CodeDistances, Exploration, TrainingTrace
from hyperpq.gallery import charts, write_report

LINE = (
    '{"epoch": %d, "losses": {"total": %f, "contrastive": 2.0}, "curvature": [1.0, 0.5], '
    '"radius": 0.4}\n'
)


@pytest.fixture(scope="module")
def views():
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    made = {
        "product": HiHPQIndex(8, 2, 4, device="cpu"),
        "sphere": HiHPQIndex(8, 2, 4, device="cpu"),
        "pq": HiHPQIndex(8, 2, 4, metric="ip", device="cpu"),
        "fidelity": HiHPQIndex(8, 2, 4, metric="cosine", device="cpu"),
    }
    made["product"].train(x, epochs=0)
    made["sphere"].train(x, recipe=Recipe().replace(epochs=0, geometry="sphere"))
    made["pq"].train(x)
    made["fidelity"].train(x, objective="fidelity", epochs=0)
    for index in made.values():
        index.add(x, attributes={"kind": ["<b>&"] * 300})
    return {name: index.view() for name, index in made.items()}


def trace(folder, *lines):
    (folder / "training.jsonl").write_text("".join(lines))
    return TrainingTrace.read(folder)


@pytest.mark.parametrize("kind", ["product", "sphere", "pq", "fidelity"])
def test_every_chart_is_a_picture_with_a_text(views, kind, tmp_path):
    view = views[kind]
    found = trace(tmp_path, LINE % (0, 3), LINE % (1, 2.5)) if kind == "product" else None
    distances = CodeDistances.of(view)
    exploration = Exploration(view)
    write_report(tmp_path / "r.html", exploration, {"a": "<i>"}, distances=distances, trace=found)
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;i&gt;" in text
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    shown = [ElementTree.fromstring(picture) for picture in pictures]
    labels = [picture.get("aria-label") for picture in shown if picture.get("role") == "img"]
    assert all(labels)
    assert len(labels) == len(set(labels))
    disks = [picture for picture in shown if picture.get("class") == "disk"]
    for picture, disk in zip(disks, exploration.disks, strict=True):
        circles = [c for c in picture.iter("circle") if c.get("class") != "ring"]
        assert len(circles) == 16
        assert sum(c.get("class") == "hollow" for c in circles) == 16 - disk.used
    assert ("Curvatures" in text) == (kind in ("product", "sphere"))
    assert ("Losses" in text) == (kind == "product")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_everybody_can_read_it(views, browser, tmp_path, width, scheme):
    found = trace(tmp_path, LINE % (0, 3), LINE % (1, 2.5))
    view = views["product"]
    path = tmp_path / "r.html"
    write_report(path, Exploration(view), {}, distances=CodeDistances.of(view), trace=found)
    with tab(browser, path, width=width, scheme=scheme) as shown:
        assert shown.faults() == []
        assert shown.overflow() <= 0
        assert shown.messages == []
        assert shown.requests == [path.as_uri()]


def test_distances_are_those_of_all_tables(views):
    for kind in ("product", "pq", "fidelity"):
        view = views[kind]
        found = CodeDistances.of(view)
        codes = view.codes_of(view.ids)
        tables = view.coder.code_tables(codes).astype(np.float64)
        words = unpack(codes, 2, 4)
        every = tables[:, 0, words[:, 0]] + tables[:, 1, words[:, 1]]
        shared = np.mean([(codes == own).all(1).sum() > 1 for own in codes])
        np.fill_diagonal(every, np.inf)
        np.testing.assert_allclose(found.nearest, every.min(1), rtol=1e-5, atol=1e-5)
        if kind == "product":
            # By other distances a row of the same code is not always the nearest.
            assert found.shared == pytest.approx(shared)
        assert np.isfinite(found.random).all()
        assert set(found.random.round(3)) <= set(every.round(3).ravel())


def test_a_trace_that_cannot_be_read_is_none(tmp_path):
    assert TrainingTrace.read(tmp_path) is None
    for text in ("", "x", "[]\n", '{"epoch": 0}\n', LINE % (0, float("nan")), "[" * 100_000):
        assert trace(tmp_path, text) is None
    assert trace(tmp_path, LINE % (0, 1)).losses == {"total": [1.0], "contrastive": [2.0]}


def test_charts_of_few_and_equal_values():
    one = charts.bars([0.0], "x", axis="m")
    assert one.count("<rect") == 1
    flat = charts.lines({"a": [2.0, 2.0]}, [0, 1], "x", axis="epoch")
    assert "nan" not in flat
    same = charts.histogram({"a": np.ones(3)}, "x", axis="d")
    assert "nan" not in same
    for value in re.findall(r' [xy][12]?="([^"]+)"', one + flat + same):
        assert 0 <= float(value) <= 640


def test_it_is_written_completely_or_not_at_all(views, tmp_path):
    with pytest.raises(InvalidInputError, match="no folder"):
        write_report(tmp_path / "no" / "r.html", Exploration(views["pq"]), {})
    index = HiHPQIndex(8, 2, 4, metric="l2", device="cpu")
    index.train(np.random.default_rng(0).normal(size=(99, 8)))
    with pytest.raises(InvalidInputError, match="no rows"):
        write_report(tmp_path / "r.html", Exploration(index.view()), {})
    assert os.listdir(tmp_path) == []
