"""The benchmark of recall by number of rows, on a few random rows."""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import recall, recall_methods, recall_refine, recall_sets
from benchmarks.baselines import make_index
from benchmarks.featuresets import open_set
from benchmarks.recall import Case, RecallBench, chosen_cases, describe_rows, recalls
from benchmarks.recall_methods import BASELINES, is_installed
from benchmarks.recall_page import (
    CURVES,
    LONG_PQ,
    PUBLISHED,
    REFINE,
    REFINE_FLAT,
    ROWS,
    Key,
    findings,
    write_recall_page,
)
from benchmarks.recall_refine import Refinable, seconds_in_turn
from benchmarks.recall_sets import (
    Rows,
    as_compared,
    exact_neighbours,
    intrinsic_dimension,
    made_rows,
    open_rows,
)
from benchmarks.runlog import RunLog
from hyperpq.errors import InvalidInputError
from hyperpq.evaluation import knn, recall_at

D = 64


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Blocks and samples for a few rows, and one epoch for whatever learns."""
    monkeypatch.setattr(recall_sets, "BLOCK", 128)
    monkeypatch.setattr(recall_sets, "TRAIN", 300)


@pytest.fixture(scope="module")
def rows():
    """400 non-negative rows around 10 directions, and 30 queries."""
    rng = np.random.default_rng(0)
    x = rng.random((10, D))[rng.integers(0, 10, 430)] + 0.3 * rng.standard_normal((430, D))
    x = np.maximum(x, 0).astype(np.float32)
    return Rows(x[:400], x[400:], recall_sets._nearest_others(recall_sets.unit(x[:400])))


def joined(rows, sizes, metric):
    return np.concatenate([block for block, _ in rows.blocks(sizes, metric)])


def test_a_database_begins_with_real_rows_and_goes_on_with_made_ones(rows):
    small, large = joined(rows, (350,), "l2"), joined(rows, (256, 400, 401, 1000), "l2")
    np.testing.assert_array_equal(small, rows.real[:350])
    assert large.shape == (1000, D)
    np.testing.assert_array_equal(large[:400], rows.real)
    assert large.min() == 0
    ends = np.cumsum([len(block) for block, _ in rows.blocks((256, 400, 401, 1000), "l2")])
    complete = [last for _, last in rows.blocks((256, 400, 401, 1000), "l2")]
    assert ends[complete].tolist() == [256, 400, 401, 1000]
    np.testing.assert_allclose(np.linalg.norm(joined(rows, (500,), "cosine"), axis=1), 1, rtol=1e-5)


def test_made_rows_are_near_the_rows_that_they_are_made_from(rows):
    made = made_rows(rows.real, rows.neighbours, 200, 1)
    np.testing.assert_array_equal(made, made_rows(rows.real, rows.neighbours, 200, 1))
    assert not np.array_equal(made, made_rows(rows.real, rows.neighbours, 200, 2))
    to_made = np.sqrt(knn(made, rows.real, 1, metric="l2")[0])
    between = np.sqrt(knn(rows.real, rows.real, 2, metric="l2")[0][:, 1])
    assert 0.5 * between.mean() < to_made.mean() < 1.5 * between.mean()


def test_neighbours_are_others_even_among_equal_rows():
    x = np.repeat(np.eye(3, 16, dtype=np.float32), 20, axis=0)
    found = recall_sets._nearest_others(x)
    assert found.shape == (60, recall_sets.NEIGHBOURS)
    assert (found != np.arange(60)[:, None]).all()
    assert (found // 20 == np.arange(60)[:, None] // 20).all()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_exact_neighbours_at_every_size(rows, metric, tmp_path, monkeypatch):
    sizes = (200, 384, 700)
    found = exact_neighbours(rows, sizes, metric, tmp_path)
    everything = joined(rows, (700,), metric)
    for n in sizes:
        distances, ids = knn(as_compared(rows.query, metric), everything[:n], 100, metric="l2")
        assert (found[n].ids == ids).mean() > 0.99  # but for ties
        np.testing.assert_allclose(found[n].distances, distances, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(recall_sets, "search_blocks", None)
    again = exact_neighbours(rows, sizes, metric, tmp_path)
    np.testing.assert_array_equal(again[384].ids, found[384].ids)
    with pytest.raises(TypeError):  # other rows are not those that are cached
        exact_neighbours(Rows(rows.real + 1, rows.query, rows.neighbours), sizes, metric, tmp_path)


def test_the_intrinsic_dimension_is_that_of_the_data():
    x = np.random.default_rng(0).random((20_000, 3)).astype(np.float32)
    x = np.pad(x, ((0, 0), (0, 5)))
    inside = x[np.abs(x[:, :3] - 0.5).max(1) < 0.2][:200]
    assert intrinsic_dimension(knn(inside, x, 101, metric="l2")[0][:, 1:]) == pytest.approx(
        3, rel=0.1
    )


def test_recall_and_shares_of_the_nearest():
    truth = np.stack([np.arange(100), np.arange(100)])
    first = np.concatenate([[500], np.arange(999)])  # the nearest comes second
    found = np.stack([first, np.full(1000, -1)])
    assert recalls(found, truth) == {
        "recall": {"1": 0, "10": 0.45, "100": 0.495},
        "nearest": {"1": 0, "10": 0.5, "100": 0.5, "1000": 0.5},
        "ten": {"1": 0, "10": 0.45, "100": 0.5, "1000": 0.5},
    }


@pytest.mark.parametrize("name", ["rq", "pca_pq"])
def test_codes_are_searched_as_by_the_index(rows, name):
    codes, index = BASELINES[name](D, 1, "l2", 0), make_index(name, D, 8, 0)
    for one in (codes, index):
        one.train(rows.real[:300])
        one.add(rows.real[:100])
        one.add(rows.real[100:])
    assert codes.bytes == 1
    same = codes.search(rows.query, 20)[""] == index.search(rows.query, 20)[1]
    assert same.mean() > 0.99  # but for ties


class Exact:
    """Codes that are the rows themselves."""

    bytes = 8
    trained = 0

    def __init__(self, d, size, metric, seed):
        self.x = np.empty((0, d), np.float32)

    def train(self, x):
        Exact.trained += 1

    def add(self, x):
        self.x = np.concatenate([self.x, x])

    def search(self, query, k):
        found = np.full((len(query), k), -1)
        found[:, : len(self.x)] = knn(query, self.x, min(k, len(self.x)), metric="l2")[1]
        return {"": found}


@pytest.fixture
def bench(rows, tmp_path, monkeypatch):
    """A bench whose methods are exact codes, one of them for the cosine only."""
    names = ("hyperpq fidelity", "hyperpq default", "pq")
    monkeypatch.setattr(recall, "METHODS", dict.fromkeys(names, Exact))
    monkeypatch.setattr(recall, "VARIANTS", {})
    monkeypatch.setattr(Exact, "trained", 0)
    return RecallBench(rows, tmp_path)


CASE = Case("l2", 8, (200, 500))


def test_curves_are_measured_once_at_every_size(bench, monkeypatch):
    bench.run_curves(CASE, list(recall.METHODS), 0)
    assert Exact.trained == 2  # the default brings features to unit length
    assert {(run["method"], run["n"]) for run in bench.log.runs.values()} == {
        (method, n) for method in ("hyperpq fidelity", "pq") for n in CASE.sizes
    }
    for key, run in bench.log.runs.items():
        key = Key(*key)
        assert run["recall"] == {"1": 1, "10": 1, "100": 1}
        assert (run["real"], run["train"], run["queries"]) == (min(key.n, 400), 300, 30)
    bench.run_curves(CASE, list(recall.METHODS), 0)
    assert Exact.trained == 2
    bench.run_curves(CASE, list(recall.METHODS), 1)
    assert Exact.trained == 4
    bench.run_curves(Case("cosine", 8, (200,)), list(recall.METHODS), 0)
    assert Exact.trained == 7
    monkeypatch.setattr(recall, "code_digest", lambda _: "other")
    bench.run_curves(CASE, ["pq"], 0)
    assert Exact.trained == 8


def test_a_library_that_is_not_installed_is_named(bench, monkeypatch, capsys):
    monkeypatch.setattr(recall_methods.importlib.util, "find_spec", lambda _: None)
    assert is_installed("pq")
    bench.run_curves(CASE, ["scann"], 0)
    assert capsys.readouterr().out == "scann is not installed; left out\n"
    assert not bench.log.runs


def test_codes_of_hyperpq(rows):
    codes = recall.OURS["hyperpq fidelity"](D, 2, "cosine", 0)
    codes.train(as_compared(rows.train, "cosine"))
    x = as_compared(rows.real, "cosine")
    codes.add(x[:150])
    first = codes.search(x[:30], 10)[""]
    codes.add(x[150:])
    found, corrected = codes.search(x[:30], 10).values()
    assert first.max() < 150 <= found.max()
    for ids in (found, corrected):
        assert (ids == np.arange(30)[:, None]).any(1).mean() > 0.9
    assert (found != corrected).any()


def test_made_rows_are_described_beside_real_ones(rows, tmp_path):
    case = Case("cosine", 2, (200, 600))
    truth = exact_neighbours(rows, case.sizes, case.metric, tmp_path)
    steps = describe_rows(rows, case, truth, 0)
    assert [(step["rows"], step["n"]) for step in steps] == [
        ("all", 200),
        ("all", 600),
        ("real", 200),
        ("made", 200),
    ]
    assert steps[0]["radii"] == sorted(steps[0]["radii"])
    assert steps[1]["radii"] < steps[0]["radii"]  # more rows are nearer
    for measure in ("dimension", "recall"):
        assert steps[3][measure] == pytest.approx(steps[2][measure], rel=0.5)


def test_cases_by_the_options():
    args = SimpleNamespace(metrics=["l2"], bytes=8, largest=50_000)
    assert chosen_cases(args) == [Case("l2", 8, (10_000, 50_000))]
    args = SimpleNamespace(metrics=["l2"], bytes=16, largest=50_000)
    with pytest.raises(InvalidInputError, match="no curves of l2 with 16 bytes and up to 50,000"):
        chosen_cases(args)


def test_rows_of_a_data_set(cache):
    features = open_set("folder:groups", None, cache)
    found = open_rows(features, 10)
    assert found.query.shape == (10, D)
    assert not np.array_equal(found.real, features.database)
    np.testing.assert_array_equal(np.sort(found.real, 0), np.sort(features.database, 0))
    assert open_rows(features, 10).digest == found.digest
    assert open_rows(features, 11).digest != found.digest


def test_refinement_beside_that_of_faiss(rows, monkeypatch):
    monkeypatch.setattr(recall_refine, "RECIPES", ("fidelity",))
    monkeypatch.setattr(recall_refine, "SIZE", 2)
    methods = Refinable(rows, 0).methods
    query = as_compared(rows.query, "cosine")
    truth = knn(query, as_compared(rows.real, "cosine"), 10, metric="l2")[1]
    found = {name: recall_at(search(query, 10), truth) for name, (_, search) in methods.items()}
    assert found[REFINE_FLAT] > found["IndexPQ"]
    assert found["hyperpq fidelity, refined"] > found["hyperpq fidelity"]
    assert found[LONG_PQ] > 0.9
    assert {name: stored for name, (stored, _) in methods.items()} == {
        "hyperpq fidelity": 2,
        "hyperpq fidelity, refined": 2 + D + 4,
        "IndexPQ": 2,
        REFINE_FLAT: 2 + 4 * D,
        "IndexRefine, 8-bit scalars": 2 + D,
        LONG_PQ: D,
    }
    times = seconds_in_turn(methods, query, 2)
    assert list(times) == list(methods)
    assert min(times.values()) > 0


def test_refinement_is_measured_once(bench, monkeypatch):
    made = []

    class OneMethod:
        def __init__(self, rows, seed):
            made.append(seed)
            x = as_compared(rows.real, "cosine")
            self.methods = {"all": (8, lambda query, k: knn(query, x, k, metric="l2")[1])}

    monkeypatch.setattr(recall, "Refinable", OneMethod)
    for seed in (0, 0, 1):
        bench.run_refinement(seed)
    assert made == [0, 1]
    run = bench.log.runs[Key(REFINE, "all", "cosine", 8, 400, 0)]
    assert run["recall"] == {"1": 1, "10": 1, "100": 1}
    assert run["stored"] == 8


def test_the_command(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recall, "CASES", (Case("cosine", 8, (200, 400)), Case("l2", 8, (200,))))
    monkeypatch.setattr(recall, "METHODS", {"pq": Exact})
    monkeypatch.setattr(Exact, "trained", 0)
    command = ["--dataset", "folder:groups", "--features", str(cache), "--out", str(tmp_path)]
    command += ["--only", "curves", "--metrics", "cosine"]
    recall.main(command)
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "recall.md")
    assert "| pq | **1.000** |" in (tmp_path / "recall.md").read_text("utf-8")
    # Another cache takes up what is published.
    (cache / "groups-lite0" / recall.RUNS).unlink()
    recall.main([*command, "--published"])
    assert Exact.trained == 1
    assert capsys.readouterr().out.startswith("took up 2 published runs; 0 are not")
    with pytest.raises(SystemExit, match="no curves of cosine with 4 bytes"):
        recall.main([*command, "--bytes", "4"])


FACTS = {
    "real": 400,
    "train": 300,
    "queries": 30,
    "machine": "2026-01-01, a machine",
    "versions": "faiss 1",
    "threads": 1,
    "commit": "abc",
}


def curve(method, values, n, metric="cosine", size=8, stored=None):
    key = Key(CURVES, method, metric, size, n, 0)
    ranks = dict(zip(("1", "10", "100", "1000"), (*values, 1.0), strict=True))
    measures = {"recall": ranks, "nearest": ranks, "ten": ranks}
    return key._asdict() | measures | {"stored": stored or size} | FACTS


def published(out, runs):
    log = RunLog(out / PUBLISHED, Key._fields)
    for run in runs:
        log.append(run)
    return {Key(*key): run for key, run in log.runs.items()}


def curves():
    for n, less in ((400, 0.0), (10_000, 0.05)):
        yield curve("hyperpq fidelity", (0.2, 0.4, 0.6), n)
        yield curve("hyperpq fidelity, corrected", (0.22 + less, 0.42, 0.6), n)
        yield curve("hyperpq default", (0.1, 0.11, 0.12), n)
        yield curve("rq", (0.3 - less, 0.3 - less, 0.5), n)
        yield curve("rabitq", (0.9, 0.9, 0.9), n, stored=16)
    yield curve("lsq", (0.1, 0.35, 0.3), 400)


def test_the_page(tmp_path):
    refined = [
        Key(REFINE, name, "cosine", 8, 400, 0)._asdict()
        | {"recall": {"1": 0.5, "10": value, "100": 0.5}, "stored": stored, "ms": ms}
        | FACTS
        for name, value, stored, ms in (
            ("IndexPQ", 0.2, 8, 2.0),
            ("hyperpq default, refined", 0.3, 76, 3.0),
            ("hyperpq fidelity, refined", 0.7, 76, 3.0),
            (REFINE_FLAT, 0.6, 264, 4.0),
            (LONG_PQ, 0.8, 64, 60.0),
        )
    ]
    steps = [
        {"rows": "all", "n": 400, "radii": [0.5, 0.6, 0.7], "dimension": 20.0},
        {"rows": "all", "n": 10_000, "radii": [0.4, 0.5, 0.6], "dimension": 30.0},
        {"rows": "made", "n": 200, "radii": [0.5, 0.6, 0.7], "dimension": 21.0, "recall": 0.25},
    ]
    rows = Key(ROWS, "distances", "cosine", 8, 400, 0)._asdict() | {"steps": steps} | FACTS
    published(tmp_path, [*curves(), *refined, rows])
    text = write_recall_page(tmp_path).read_text("utf-8")
    start = text.split("\n\n")[1]
    assert (
        'Among 10,000 rows, 8-byte codes of `objective="fidelity"` have a recall@10 of .400 for '
        "cosine neighbours; the best baseline of as many bytes, `rq`, has .250. Searched with "
        "`refine=200`, which needs no kept features, they have .420." in start
    )
    assert "default codes .110" in start
    assert (
        "Of 6 figures of recall@1, @10 and @100, these codes lead in 4, and in 5 with "
        "`refine=200`. Either way they are behind in recall@1 of cosine neighbours among 400 rows "
        "with 8 bytes (.220, `rq` .300)." in start
    )
    assert "fidelity codes have a recall@10 of .700 with 76 bytes a row" in start
    # The best of as many bytes is bold, and a method that lacks the largest size comes last.
    lines = text.splitlines()
    assert "| rabitq (16 bytes) | .900 | .900 | .900 | .900 | .900 | .900 |" in lines
    assert "| rq | **.300** | .300 | .500 | .250 | .250 | .500 |" in lines
    assert "| lsq | .100 | .350 | .300 |  |  |  |" in lines
    assert "| IndexPQ of as many bytes | 64 | .500 | .800 | .500 | 30 |" in lines
    assert "rises, from 20 among 400 rows to 30 among 10,000." in text
    assert "| 200, made alone | 0.500 | 0.600 | 0.700 | 21.0 | .250 |" in lines
    assert "a recall@1 of .25 has a standard error of .079." in text
    assert text.count("2026-01-01, a machine, 1 thread, faiss 1, commit abc") == 1
    assert ElementTree.parse(tmp_path / "recall.svg").getroot().tag.endswith("svg")


def test_findings_without_a_loss(tmp_path):
    runs = [curve("hyperpq fidelity", (0.2, 0.4, 0.6), 400), curve("rq", (0.1, 0.2, 0.3), 400)]
    assert findings(published(tmp_path, runs))[-1] == (
        "Of 3 figures of recall@1, @10 and @100, these codes lead in 3, and in 3 with `refine=200`."
    )
