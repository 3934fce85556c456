"""Fidelity codes for the neighbours by L2 and inner product, and their second ranking by codes."""

from __future__ import annotations

import json

import faiss
import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex
from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.balanced import BalancedCodec
from hyperpq.codec.config import AdditiveConfig
from hyperpq.codec.serialization import SETTINGS_FILE, WEIGHTS_FILE, from_files, to_files
from hyperpq.errors import CorruptIndexError, FormatVersionError, InvalidInputError
from hyperpq.evaluation import recall_at
from hyperpq.training import reconstruction
from hyperpq.training.presets import get_recipe
from hyperpq.training.train import train_codec

D_IN = 30


def rows(n: int, seed: int) -> np.ndarray:
    """Vectors of several lengths around 20 centres, away from the origin."""
    shape = np.random.default_rng(0)
    centers = shape.normal(size=(20, D_IN)) / np.sqrt(1 + np.arange(D_IN))
    rng = np.random.default_rng(seed)
    x = centers[rng.integers(0, 20, n)] + 0.5 * rng.normal(size=(n, D_IN)) / np.sqrt(
        1 + np.arange(D_IN)
    )
    return (8 * (x * rng.lognormal(0, 0.4, (n, 1)) + 0.5)).astype(np.float32)


def exact(query: np.ndarray, database: np.ndarray, metric: str) -> np.ndarray:
    """Distances (nq, n) in float64."""
    q, x = query.astype(np.float64), database.astype(np.float64)
    if metric == "ip":
        return -q @ x.T
    if metric == "cosine":
        q, x = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (q, x))
    return np.square(q[:, None] - x).sum(2)


def trained(metric: str, M: int = 4, n: int = 600) -> AdditiveCodec:
    codec = train_codec(
        rows(n, 1),
        M=M,
        metric=metric,
        recipe=get_recipe("default", 8 * M, objective="fidelity", epochs=0),
    )
    assert isinstance(codec, AdditiveCodec)
    return codec


@pytest.fixture(scope="module")
def codecs():
    return {metric: trained(metric) for metric in ("cosine", "l2", "ip")}


def distances(codec: AdditiveCodec, query: np.ndarray, database: np.ndarray) -> np.ndarray:
    tables, codes = codec.tables(query).astype(np.float64), codec.encode(database)
    return sum(tables[:, m, codes[:, m]] for m in range(codec.M))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_distances_estimate_those_of_the_metric(codecs, metric):
    query, database = rows(50, 2), rows(900, 3)
    found, want = distances(codecs[metric], query, database), exact(query, database, metric)
    assert np.corrcoef(found.ravel(), want.ravel())[0, 1] > 0.95
    # In units of the vectors, and not in those of the quantizer.
    assert 0.8 < found.std() / want.std() < 1.2
    codec = HiHPQIndex.from_codec(codecs[metric], device="cpu")
    codec.add(database)
    assert (codec.metric, codec.objective) == (metric, "fidelity")
    truth = np.argsort(want, axis=1)[:, :10]
    pq = faiss.IndexPQ(D_IN, 5, 8, faiss.METRIC_L2 if metric == "l2" else 0)
    pq.pq.cp.min_points_per_centroid = 1
    pq.train(rows(600, 1))
    pq.add(database)
    theirs = recall_at(pq.search(query, 10)[1], truth)  # with a byte more
    assert recall_at(codec.search(query, 10)[1], truth) > theirs


def test_tables_are_the_sums_that_the_method_says(codecs):
    """In float64, from the weights, without the code that is tested."""
    x, stored = rows(20, 4), rows(60, 5)
    for metric, codec in codecs.items():
        state = {name: value.double().numpy() for name, value in codec.state_dict().items()}
        words, codes = state["quantizer.codebooks"], codec.encode(stored)
        total = words[np.arange(codec.M), codes].sum(1)
        z, N = total[:, :-1], total[:, -1]
        if metric == "cosine":
            v = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ state["weight"] + state["bias"]
            q, s = v[:, :-1], v[:, -1:]
        else:
            centered = (x - state["mean"]) * state["scale"]
            q, s = centered @ state["weight"][:, :-1], np.square(centered).sum(1)[:, None]
        want = -q @ z.T if metric == "ip" else s - 2 * q @ z.T + 0.9 * N
        unit = state["scale"] ** -2
        np.testing.assert_allclose(
            distances(codec, x, stored), want * unit, rtol=1e-4, atol=1e-5 * np.abs(want).max()
        )
        more = 0 * N if metric == "ip" else 0.36 * (np.square(z).sum(1) - N)
        np.testing.assert_allclose(codec.corrections(codes), more * unit, rtol=1e-9, atol=1e-12)
        assert codec.has_corrections == (metric != "ip")


def test_lengths_of_vectors_count_for_l2_alone(codecs):
    """Scaled rows have other codes with l2, and the same ones with cosine."""
    x = rows(200, 6)
    factor = np.random.default_rng(0).choice([0.25, 4], (200, 1)).astype(np.float32)
    np.testing.assert_array_equal(codecs["cosine"].encode(x * factor), codecs["cosine"].encode(x))
    assert (codecs["l2"].encode(x * factor) != codecs["l2"].encode(x)).any(1).mean() > 0.9


def test_the_inner_product_is_linear_in_the_query(codecs):
    x, database = rows(30, 7), rows(100, 8)
    found = distances(codecs["ip"], x, database)
    both = distances(codecs["ip"], x[:15] + x[15:], database)
    np.testing.assert_allclose(both, found[:15] + found[15:], rtol=1e-4)
    np.testing.assert_array_equal(distances(codecs["ip"], 4 * x, database), 4 * found)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_unit_of_vectors_changes_no_code(metric):
    """Powers of two change the last bit of nothing; distances are in units of the vectors."""
    for factor in (2.0**-20, 2.0**30):
        one = train(rows(300, 1), metric)
        other = train(rows(300, 1) * np.float32(factor), metric)
        x = rows(50, 2)
        scaled = x * np.float32(factor)
        np.testing.assert_array_equal(other.encode(scaled), one.encode(x))
        np.testing.assert_array_equal(other.tables(scaled), one.tables(x) * np.float32(factor) ** 2)


def train(x: np.ndarray, metric: str) -> AdditiveCodec:
    recipe = get_recipe("default", 16, objective="fidelity", epochs=0)
    codec = train_codec(x, M=2, metric=metric, recipe=recipe)
    assert isinstance(codec, AdditiveCodec)
    return codec


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_rows_are_coded_alike_in_any_batch(codecs, metric):
    x, codec = rows(70, 9), codecs[metric]
    alone = np.concatenate([codec.encode(row[None]) for row in x])
    np.testing.assert_array_equal(codec.encode(x), alone)
    tables = np.concatenate([codec.tables(row[None]) for row in x])
    np.testing.assert_array_equal(codec.tables(x), tables)
    codes = np.concatenate([codec.corrections(row[None]) for row in alone])
    np.testing.assert_array_equal(codec.corrections(alone), codes)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_files_round_trip_bit_for_bit(codecs, metric):
    files, x = to_files(codecs[metric]), rows(50, 2)
    stored = json.loads(files[SETTINGS_FILE])
    # Earlier versions, which would read it as cosine, name the version.
    assert (stored["score"], stored["version"], stored["conditioning"]) == (metric, 4, "none")
    assert "kind" not in stored
    again = from_files(files)
    assert isinstance(again, AdditiveCodec)
    assert to_files(again) == files
    assert again.metric == again.quantizer.metric == metric
    np.testing.assert_array_equal(again.encode(x), codecs[metric].encode(x))
    np.testing.assert_array_equal(again.tables(x), codecs[metric].tables(x))


def test_a_codec_of_cosine_is_stored_as_before(codecs):
    stored = json.loads(to_files(codecs["cosine"])[SETTINGS_FILE])
    assert (stored["score"], stored["version"], stored["conditioning"]) == ("inner", 3, "unit")
    assert "metric" not in stored


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 3}, FormatVersionError),
        ({"version": 5}, FormatVersionError),
        ({"score": "inner"}, FormatVersionError),
        ({"score": "cosine"}, FormatVersionError),
        ({"score": "inner", "version": 3, "conditioning": "unit"}, None),
        ({"score": "ip"}, None),
        ({"conditioning": "unit"}, CorruptIndexError),
        ({"score": ["l2"]}, FormatVersionError),
        ({"D": 5}, CorruptIndexError),
    ],
    ids=str,
)
def test_edited_settings_are_refused(codecs, changes, error):
    files = to_files(codecs["l2"])
    edited = json.dumps(json.loads(files[SETTINGS_FILE]) | changes).encode()
    if error is None:  # another codec, and a whole one
        assert from_files({**files, SETTINGS_FILE: edited}).metric != "l2"
        return
    with pytest.raises(error):
        from_files({**files, SETTINGS_FILE: edited})


def test_damaged_scales_are_refused(codecs):
    from safetensors.torch import load, save

    files = to_files(codecs["l2"])
    for value in (0.0, -1.0, float("nan"), 0.3):
        state = load(files[WEIGHTS_FILE]) | {"scale": torch.tensor(value)}
        with pytest.raises(CorruptIndexError, match="scale"):
            from_files({**files, WEIGHTS_FILE: save(state)})


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_with_bits_keeps_the_metric(codecs, metric):
    other = codecs[metric].with_bits(16)
    assert (other.metric, other.quantizer.metric, other.M) == (metric, metric, 2)
    assert to_files(codecs[metric].with_bits(16, metric=metric)) == to_files(other)
    with pytest.raises(InvalidInputError, match="metric is 'cosine'; expected"):
        codecs[metric].with_bits(16, metric="cosine")


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_very_long_and_very_short_vectors(metric):
    """Outliers, rows of zeros, and a data set of tiny or huge numbers: all are finite."""
    x = rows(300, 1)
    x[7] = 1e6
    x[8] = 0
    for factor in (1e-9, 1, 1e9):
        codec = train(x * np.float32(factor), metric)
        assert to_files(from_files(to_files(codec))) == to_files(codec)
        other = np.float32(factor) * np.concatenate([x[:20], 1e3 * x[:5]])
        assert codec.encode(other).shape == (25, 2)
        assert np.isfinite(codec.tables(other)).all()
    assert codec.encode(np.full((1, D_IN), 3e38, np.float32)).shape == (1, 2)
    equal = train(np.ones((50, D_IN), np.float32), metric)
    assert np.isfinite(equal.tables(x[:3])).all()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_second_ranking_finds_more(metric):
    """By the codes alone; the results for one k are the first of those for a larger one."""
    query, database = rows(100, 2), rows(4000, 3)
    index = HiHPQIndex(D_IN, 2, objective="fidelity", metric=metric, device="cpu")
    index.train(rows(600, 1), epochs=0)
    index.add(database)
    truth = np.argsort(exact(query, database, metric), axis=1)[:, :10]
    once, twice = (recall_at(index.search(query, 10, refine=n)[1], truth) for n in (None, "auto"))
    assert twice > once + 0.01
    D, I = index.search(query, 50, refine=300)  # noqa: E741
    few = index.search(query, 10, refine=300)
    np.testing.assert_array_equal(few[0], D[:, :10])
    np.testing.assert_array_equal(few[1], I[:, :10])
    assert (np.diff(D) >= 0).all()
    # The distance is that of the code and its correction, of candidates of any number.
    tables, codes = index.codec.tables(query), index.codec.encode(database)
    sums = sum(tables[:, m, codes[:, m]].astype(np.float64) for m in range(2))
    want = sums.astype(np.float32) + index.codec.corrections(codes)
    np.testing.assert_array_equal(D, np.take_along_axis(want, I, 1).astype(np.float32))
    every = index.search(query, 10, refine=4000)[1]
    np.testing.assert_array_equal(
        every, np.lexsort((np.tile(np.arange(4000), (100, 1)), want.astype(np.float32)))[:, :10]
    )


def test_the_second_ranking_of_similarities():
    x = rows(600, 1)
    index = HiHPQIndex(D_IN, 2, objective="fidelity", device="cpu")
    index.train(x, epochs=0)
    index.add(x)
    D, I, S = index.search_similar(x[:5], 20, refine="auto")  # noqa: E741
    near = index.search(x[:5], 20, refine="auto")
    np.testing.assert_array_equal(D, near[0])
    np.testing.assert_array_equal(I, near[1])
    assert (np.diff(S) <= 0).all()
    assert S[:, 0].min() > 90
    assert index.calibration.refined is not None
    np.testing.assert_array_equal(index.similarity(x[:5], D, refine="auto"), S)


@pytest.mark.parametrize("options", [{"metric": "ip"}, {"objective": "semantic"}])
def test_codes_that_say_all_have_no_second_ranking(options):
    x = rows(60, 1)
    index = HiHPQIndex(D_IN, 2, device="cpu", **{"objective": "fidelity", **options})
    index.train(x, epochs=0)
    index.add(x)
    assert not index.codec.has_corrections
    np.testing.assert_array_equal(index.codec.corrections(index.codec.encode(x)), 0)
    with pytest.raises(InvalidInputError, match="keeps no features"):
        index.search(x, 2, refine="auto")


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_kept_features_rank_by_the_metric(codecs, metric):
    database, query = rows(500, 3), rows(20, 2)
    index = HiHPQIndex.from_codec(codecs[metric], device="cpu", features="float32")
    index.add(database)
    truth = np.argsort(exact(query, database, metric), axis=1)[:, :5]
    np.testing.assert_array_equal(index.search(query, 5, refine=500)[1], truth)


def test_other_trainings_of_an_index(tmp_path):
    x = rows(80, 1)
    index = HiHPQIndex(D_IN, 2, objective="fidelity", metric="l2", features="float32", device="cpu")
    index.train(x, epochs=0)
    index.add(x)
    index.save(tmp_path / "i")
    again = HiHPQIndex.load(tmp_path / "i", device="cpu")
    assert (again.metric, again.objective) == ("l2", "fidelity")
    again.retrain(epochs=0)
    assert again.metric == "l2"
    assert again.with_bits(8, rows=True).metric == "l2"
    again.retrain(objective="semantic", epochs=0)
    assert again.metric == "l1"
    again.retrain(objective="fidelity", epochs=0)
    assert again.metric == "cosine"


def test_what_does_not_fit_is_named():
    with pytest.raises(InvalidInputError, match="normalization is 'unit' with the metric 'l2'"):
        AdditiveConfig(8, 2, D=3, metric="l2")
    with pytest.raises(InvalidInputError, match="metric is 'l1'; expected 'cosine', 'l2' or 'ip'"):
        AdditiveConfig(8, 2, D=3, metric="l1")
    x = rows(60, 1)
    semantic = train_codec(x, M=2, recipe=get_recipe("default", 16, epochs=0))
    with pytest.raises(InvalidInputError, match="fidelity has the metric 'l2'; expected 'cosine'"):
        BalancedCodec(semantic, train(x, "l2"))


def test_longer_codes_keep_more_components(monkeypatch):
    monkeypatch.setattr(reconstruction, "MIN_COMPONENTS", 10)
    widths = [train(rows(300, 1), "l2").config.D]
    widths += [trained("cosine", M, n=300).config.D for M in (1, 2, 3)]
    assert widths == [17, 11, 17, 25]
