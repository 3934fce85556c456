"""Searches of some cells by a server: the answers of the library, and a recall for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from server_tools import content

from hyperpq import HiHPQIndex, ImageIndex
from hyperpq.errors import InvalidInputError
from hyperpq.index.recall import RecallCurve
from hyperpq.scan.scanner import CpuScanner
from hyperpq.server import ServedIndex, ServerSettings, create_app
from hyperpq.server.service import Service


@pytest.fixture
def cells(tmp_path):
    """An index of 1,500 vectors in 16 cells, and the vectors."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 8))[np.arange(1500) % 40] + 0.4 * rng.normal(size=(1500, 8))
    x = x.astype("float32")
    index = HiHPQIndex(8, M=4, nbits=4, metric="l2", device="cpu")
    index.train(x)
    index.add(x)
    index.make_cells(16)
    index.save(tmp_path / "index")
    return tmp_path / "index", x


def bodies(x, *fields):
    return [("POST", "/search", {"json": {"vector": x.tolist(), **given}}) for given in fields]


def ids_of(response):
    assert response.status_code == 200, response.text
    return [result["id"] for result in response.json()["results"]]


def test_vectors_are_searched_in_some_cells(cells, asked):
    path, x = cells
    index = HiHPQIndex.load(path, device="cpu")
    fields = [{}, {"nprobe": 1}, {"nprobe": 2}, {"nprobe": 2**63 - 1}, {"recall": 0.8}]
    fields += [{"recall": 1}, {"recall": 0.5, "where": "id < 700"}]
    # All of them arrive at once, and those with other cells have other scans.
    found = list(map(ids_of, asked(path, *bodies(x[3] + 0.1, *fields))))
    for given, ids in zip(fields, found, strict=True):
        assert ids == [id for id in index.search(x[3] + 0.1, 10, **given)[1][0].tolist() if id >= 0]
    assert found[0] == found[3] == found[5] != found[1]


def test_wrong_cells_cost_one_sentence(cells, vectors, asked):
    path, x = cells
    fields = [{"nprobe": 2, "recall": 0.9}, {"nprobe": 0}, {"recall": 0}, {"recall": 1.01}]
    answers = asked(path, *bodies(x[0], *fields))
    answers += asked(vectors[0], *bodies(vectors[1][0], {"nprobe": 3}, {"recall": 0.9}))
    assert [answer.status_code for answer in answers] == [422] * 6
    said = [answer.json()["detail"] for answer in answers]
    assert "nprobe is 2 and recall is 0.9; expected at most one" in said[0]
    assert said[1].startswith("nprobe is 0; ")
    assert said[2].startswith("recall is 0; ")
    assert said[3].startswith("recall is 1.01; ")
    assert said[4].startswith("nprobe is 3, but the index has no cells")
    assert said[5].startswith("recall is 0.9, but the index has no cells")


def test_a_recall_for_searches_that_ask_for_none(cells, asked):
    path, x = cells
    index = HiHPQIndex.load(path, device="cpu")
    served = ServedIndex(path, device="cpu", recall=0.6)
    app = create_app(served, ServerSettings())
    between = (x[:50] + x[1:51]) / 2
    exact, some = (index.search(between, 10, recall=recall)[1] for recall in (1, 0.6))
    query = between[(exact != some).any(1).argmax()]
    requests = bodies(query, {}, {"recall": 1}, {"nprobe": 1})
    *answers, facts, metrics = asked(
        path, *requests, ("GET", "/index", {}), ("GET", "/metrics", {}), app=app
    )
    default, exact, one = map(ids_of, answers)
    assert default == index.search(query, 10, recall=0.6)[1][0].tolist()
    assert exact == index.search(query, 10)[1][0].tolist() != default
    assert one == [id for id in index.search(query, 10, nprobe=1)[1][0].tolist() if id >= 0]
    assert (facts.json()["nlist"], facts.json()["recall"]) == (16, 0.6)
    assert "hyperpq_index_cells 16.0" in metrics.text

    index.make_cells(0)
    assert served.reload()
    [without] = asked(path, requests[0], app=app)
    assert ids_of(without) == exact
    facts = Service(served, ServerSettings()).facts()
    assert (facts.nlist, facts.recall) == (0, None)
    with pytest.raises(InvalidInputError, match=r"recall is 0\.9, but .* has no cells"):
        ServedIndex(path, device="cpu", recall=0.9)
    with pytest.raises(InvalidInputError, match=r"recall is 1\.5; expected a share"):
        ServedIndex(path, device="cpu", recall=1.5)


def test_what_all_searches_need_is_measured_before_the_first(cells, monkeypatch):
    path, x = cells
    index = HiHPQIndex.load(path, device="cpu")
    served = ServedIndex(path, device="cpu", recall=0.6)
    index.add(x)
    measured = []
    measure = RecallCurve._measured
    monkeypatch.setattr(
        RecallCurve, "_measured", lambda *args: measured.append(args) or measure(*args)
    )
    assert served.reload()
    assert len(measured) == 1
    served.current.index.search(x[:3], 10, recall=0.9)
    assert len(measured) == 1


def test_images_are_searched_in_some_cells(copy, networks, asked, upload):
    path = copy / "index"
    HiHPQIndex.load(path, device="cpu").make_cells(4)
    reader = ImageIndex.open(path, device="cpu", read_only=True)
    both = {"json": {"id": 3, "nprobe": 1, "recall": 0.5}}
    some, by_id, all_of_them, wrong = asked(
        path,
        upload(3, nprobe="1", k="20"),
        ("POST", "/search", {"json": {"id": 3, "k": 20, "nprobe": 2}}),
        ("POST", "/search", {"json": {"id": 3, "k": 20, "recall": 0.9}}),
        ("POST", "/search", both),
        app=create_app(ServedIndex(path, device="cpu", recall=0.9), ServerSettings()),
    )
    [expected] = reader.query([content(3)], 20, nprobe=1)
    assert ids_of(some) == [result.id for result in expected.results]
    assert 0 < len(expected.results) < 20
    [expected] = reader.query(like=3, k=20, nprobe=2)
    assert ids_of(by_id) == [result.id for result in expected.results]
    # So few images are searched as a whole.
    assert len(ids_of(all_of_them)) == 20
    assert (wrong.status_code, "nprobe is 1 and recall is 0.5" in wrong.text) == (422, True)


class Cluster(CpuScanner):
    """Counts what it scans."""

    scans = 0

    def search_segments(self, *args, **options):
        self.scans += 1
        return super().search_segments(*args, **options)


def test_cells_are_scanned_by_the_server_itself(cells, asked):
    path, x = cells
    cluster = Cluster()
    app = create_app(ServedIndex(path, device="cpu", scanner=cluster), ServerSettings())
    some = asked(path, *bodies(x[0], {"nprobe": 1}, {"recall": 0.5}), app=app)
    assert cluster.scans == 0
    whole = asked(path, *bodies(x[0], {}, {"nprobe": 16}, {"recall": 1}), app=app)
    assert cluster.scans == 3
    assert all(len(ids_of(answer)) == 10 for answer in [*some, *whole])
