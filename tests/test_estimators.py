"""The estimators: scikit-learn's own checks, and pipelines on its digits beside exact ones."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError

pytest.importorskip("sklearn", reason="scikit-learn isn't installed")

import joblib
from sklearn.base import clone
from sklearn.cluster import DBSCAN, HDBSCAN
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from hyperpq.estimators import HiHPQNeighborsTransformer, HiHPQTransformer

X = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)


# None is expected to fail. Without epochs learning is PCA and k-means: the checks are of the face.
@parametrize_with_checks(
    [
        HiHPQTransformer(M=1, epochs=0),
        HiHPQTransformer(M=2, nbits=4, output="decoded", epochs=0),
        HiHPQTransformer(M=1, output="codes", epochs=0),
        HiHPQNeighborsTransformer(M=1, epochs=0),
        HiHPQNeighborsTransformer(M=1, epochs=0, objective="fidelity", n_jobs=-1),
        HiHPQTransformer(M=2, nbits=4, epochs=0, objective="balanced"),
    ]
)
def test_checks_of_sklearn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """Rows and labels of the digits: (train, test, labels of train, of test)."""
    rows, labels = load_digits(return_X_y=True)
    return train_test_split(rows, labels, random_state=0, stratify=labels)


@pytest.mark.parametrize("seed", [0, 3])
def test_outputs_are_those_of_an_index(seed):
    index = HiHPQIndex(6, 2, metric="chord", device="cpu")
    index.train(X, epochs=1, seed=seed)
    options = {"M": 2, "metric": "chord", "epochs": 1, "random_state": seed}
    want = {
        "embedding": index.embed(X),
        "codes": index.encode(X),
        "decoded": index.decode(index.encode(X)),
    }
    for output, expected in want.items():
        found = HiHPQTransformer(output=output, **options).fit(X).transform(X.astype(np.float64))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_names_of_what_comes_out():
    made = HiHPQTransformer(M=2, output="codes", epochs=0).fit(X)
    assert made.n_features_in_ == 6
    assert list(made.get_feature_names_out()) == ["hihpqtransformer0", "hihpqtransformer1"]
    made = HiHPQTransformer(M=2, epochs=0).fit(X)
    assert len(made.get_feature_names_out()) == made.transform(X).shape[1]
    graph = HiHPQNeighborsTransformer(epochs=0).fit(X)
    assert graph.get_feature_names_out()[-1] == "hihpqneighborstransformer119"


def test_random_states():
    def made(state):
        return HiHPQTransformer(M=1, epochs=1, random_state=state).fit_transform(X)

    random = np.random.RandomState
    np.testing.assert_array_equal(made(random(5)), made(random(5)))
    assert not np.array_equal(made(random(5)), made(random(6)))


@pytest.mark.parametrize("objective", ["semantic", "fidelity", "balanced"])
def test_the_graph_is_what_search_finds(objective):
    made = HiHPQNeighborsTransformer(7, M=2, epochs=0, objective=objective).fit(X)
    queries = X[:30] + np.float32(0.05)
    graph = made.transform(queries)
    D, I = made.index_.search(queries, 8)  # noqa: E741
    assert graph.shape == (30, 120)
    assert graph.dtype == np.float32
    assert graph.nnz == 30 * 8
    dense = np.full((30, 120), -1.0, np.float32)
    np.put_along_axis(dense, I, np.maximum(D, 0), 1)
    rows = np.repeat(np.arange(30), 8)
    np.testing.assert_array_equal(graph.data, dense[rows, graph.indices])
    assert all(len(set(graph[i].indices)) == 8 for i in range(30))


def test_a_fitted_row_is_its_own_neighbour(digits):
    rows = digits[0][:300]
    graph = HiHPQNeighborsTransformer(3, M=8, epochs=0).fit_transform(rows)
    assert np.mean([i in graph[i].indices for i in range(300)]) > 0.97


@pytest.mark.parametrize(
    "options", [{"objective": "fidelity", "epochs": 0}, {"epochs": 1}], ids=["fidelity", "semantic"]
)
def test_classifier_on_the_graph(digits, options):
    train, test, known, wanted = digits

    def accuracy(transformer):
        classifier = KNeighborsClassifier(5, metric="precomputed")
        return make_pipeline(transformer, classifier).fit(train, known).score(test, wanted)

    exact = accuracy(KNeighborsTransformer(n_neighbors=5, mode="distance"))
    assert exact > 0.97
    # 32 bits a row in place of 64 floats.
    assert accuracy(HiHPQNeighborsTransformer(5, M=4, **options)) > exact - 0.03


def test_dbscan_on_the_graph():
    """As good clusters as on the exact graph, each at its best ``eps``."""
    rows, labels = load_digits(return_X_y=True)

    def best(transformer):
        graph = transformer.fit_transform(rows)
        found = [
            DBSCAN(eps=eps, min_samples=10, metric="precomputed").fit_predict(graph)
            for eps in np.quantile(graph.data[graph.data > 0], np.linspace(0.2, 0.9, 8))
        ]
        return max(adjusted_rand_score(labels, clusters) for clusters in found)

    exact = best(KNeighborsTransformer(n_neighbors=30, mode="distance"))
    assert exact > 0.4
    assert best(HiHPQNeighborsTransformer(30, M=8, epochs=0)) > exact


def test_neighbours_are_those_of_search():
    made = HiHPQNeighborsTransformer(4, M=2, epochs=0).fit(X)
    queries = X[:20] + np.float32(0.05)
    for k in (None, 1, 120):
        D, I = made.index_.search(queries, k or 4)  # noqa: E741
        distances, indices = made.kneighbors(queries, k)
        np.testing.assert_array_equal(distances, D)
        np.testing.assert_array_equal(indices, I)
        np.testing.assert_array_equal(made.kneighbors(queries, k, return_distance=False), I)


@pytest.mark.parametrize("objective", ["semantic", "fidelity"])
def test_without_rows_none_is_its_own_neighbour(objective):
    # One coarse code: some rows are not among their own nearest, and many distances are equal.
    options = {"M": 1, "nbits": 4, "epochs": 0, "objective": objective}
    made = HiHPQNeighborsTransformer(4, **options).fit(X)
    distances, indices = made.kneighbors()
    assert indices.shape == distances.shape == (120, 4)
    everything = made.index_.search(X, 120)
    for row, (found, D) in enumerate(zip(indices, distances, strict=True)):
        others = everything[1][row] != row
        want = everything[1][row][others][:4]
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(D, np.maximum(everything[0][row][others][:4], 0))
    own = made.kneighbors(X, return_distance=False)
    assert any(row not in own[row] for row in range(120))
    assert made.kneighbors(None, 119)[1].shape == (120, 119)


def test_graph_of_neighbours_is_that_of_sklearn():
    made = HiHPQNeighborsTransformer(4, M=2, epochs=0).fit(X)
    for rows in (None, X[:7]):
        distances, indices = made.kneighbors(rows)
        for mode, values in (("connectivity", np.ones_like(distances)), ("distance", distances)):
            graph = made.kneighbors_graph(rows, mode=mode)
            assert graph.dtype == np.float32
            dense = np.zeros(graph.shape, np.float32)
            np.put_along_axis(dense, indices, values, 1)
            np.testing.assert_array_equal(graph.toarray(), dense)


def test_a_symmetric_graph_has_the_mean_of_both_directions():
    made = HiHPQNeighborsTransformer(4, M=2, epochs=0).fit(X)
    one = made.kneighbors_graph(mode="distance").toarray()
    both = made.kneighbors_graph(mode="distance", symmetric=True)
    there = np.stack([one, one.T])
    want = there.sum(0) / np.maximum((there > 0).sum(0), 1)
    np.testing.assert_allclose(both.toarray(), want, rtol=1e-6)
    assert (both != both.T).nnz == 0
    assert ((one > 0) & (one.T > 0)).any() and ((one > 0) ^ (one.T > 0)).any()
    for row in both:
        assert (np.diff(row.data) >= 0).all()
    assert made.kneighbors_graph(symmetric=True).toarray().max() == 1


def test_a_symmetric_graph_keeps_distances_of_zero():
    """Estimates below 0 are set to 0; dropped, they would be no neighbours at all."""
    rows = np.repeat(X[:30], 4, axis=0)
    made = HiHPQNeighborsTransformer(6, M=2, epochs=0, objective="fidelity", symmetric=True)
    graph = made.fit_transform(rows)
    assert (graph.data == 0).any()
    assert (np.diff(graph.indptr) >= 7).all()
    found = made.transform(rows).tocoo()
    pattern = graph.copy()
    pattern.data[:] = 1
    assert (pattern[found.row, found.col] == 1).all()
    assert (graph != graph.T).nnz == 0


def test_hdbscan_needs_the_symmetric_graph():
    rows, labels = load_digits(return_X_y=True)
    options = {"M": 8, "epochs": 0}
    clustering = HDBSCAN(min_cluster_size=20, metric="precomputed", copy=True)
    with pytest.raises(ValueError, match="symmetric"):
        make_pipeline(HiHPQNeighborsTransformer(30, **options), clustering).fit(rows)
    graph = HiHPQNeighborsTransformer(30, symmetric=True, **options)
    found = make_pipeline(graph, clustering).fit_predict(rows)
    exact = HDBSCAN(min_cluster_size=20, copy=True).fit_predict(rows)
    assert adjusted_rand_score(labels, found) > adjusted_rand_score(labels, exact)


def test_tsne_on_the_graph(digits):
    rows, labels = digits[0][:400], digits[2][:400]
    graph = HiHPQNeighborsTransformer(61, M=8, epochs=0)
    map_ = TSNE(metric="precomputed", init="random", perplexity=20, max_iter=300, random_state=0)
    places = make_pipeline(graph, map_).fit_transform(rows)
    nearest = KNeighborsClassifier(5).fit(places[:200], labels[:200])
    assert nearest.score(places[200:], labels[200:]) > 0.8


def test_threads_of_n_jobs(monkeypatch):
    """As joblib has it: None is 1 outside of a context, and -1 is one for each core."""
    made = HiHPQNeighborsTransformer(4, M=2, epochs=0).fit(X)
    want = made.transform(X)
    asked = []
    search = made.index_.search

    def kept(rows, k, *, threads):
        asked.append(threads)
        return search(rows, k, threads=threads)

    monkeypatch.setattr(made.index_, "search", kept)
    for n_jobs in (None, 1, 3, -1, -2):
        made.set_params(n_jobs=n_jobs)
        assert (made.transform(X) != want).nnz == 0
    cores = joblib.cpu_count()
    assert asked == [1, 1, 3, cores, max(1, cores - 1)]
    with joblib.parallel_config(n_jobs=2):
        made.set_params(n_jobs=None).kneighbors(X)
    assert asked[-1] == 2


def test_estimators_in_parallel():
    """What joblib does with an estimator: pickled to a process, and used by several threads."""
    made = HiHPQNeighborsTransformer(4, M=2, epochs=0).fit(X)
    want = made.kneighbors(X)[1]
    for backend in ("loky", "threading"):
        found = joblib.Parallel(2, backend=backend)(
            joblib.delayed(made.kneighbors)(X[i::3], return_distance=False) for i in range(3)
        )
        for i in range(3):
            np.testing.assert_array_equal(found[i], want[i::3])


def test_a_file_of_joblib(tmp_path):
    for made in (HiHPQTransformer(epochs=0), HiHPQNeighborsTransformer(epochs=0)):
        joblib.dump(made.fit(X), tmp_path / "made")
        for mode in (None, "r"):
            found = joblib.load(tmp_path / "made", mmap_mode=mode)
            assert (found.transform(X) != made.transform(X)).sum() == 0
            assert repr(found) == repr(made)


def test_tables_of_pandas_in_and_out():
    pandas = pytest.importorskip("pandas", reason="pandas isn't installed")
    table = pandas.DataFrame(X, columns=list("abcdef"), index=range(1000, 1120))
    made = HiHPQTransformer(M=2, output="codes", epochs=0).set_output(transform="pandas")
    found = made.fit_transform(table)
    assert list(found.columns) == ["hihpqtransformer0", "hihpqtransformer1"]
    assert list(found.index) == list(table.index)
    assert (found.dtypes == np.uint8).all()
    assert list(made.feature_names_in_) == list("abcdef")
    with pytest.raises(ValueError, match="feature names"):
        made.transform(table[list("fedcba")])
    neighbours = HiHPQNeighborsTransformer(3, epochs=0).fit(table)
    assert neighbours.kneighbors(table, return_distance=False).shape == (120, 3)
    assert list(neighbours.feature_names_in_) == list("abcdef")


def test_representation_in_a_pipeline(digits):
    train, test, known, wanted = digits
    pipeline = make_pipeline(HiHPQTransformer(epochs=0), LogisticRegression(max_iter=300))
    search = GridSearchCV(pipeline, {"hihpqtransformer__M": [1, 8]}, cv=2).fit(train, known)
    assert search.score(test, wanted) > 0.93


def test_copies_answer_alike():
    for estimator in (HiHPQTransformer(epochs=0), HiHPQNeighborsTransformer(epochs=0)):
        want = estimator.fit(X).transform(X)
        for other in (pickle.loads(pickle.dumps(estimator)), clone(estimator).fit(X)):
            found = other.transform(X)
            assert (found != want).sum() == 0


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            HiHPQTransformer(output="code"),
            "output is 'code'; expected 'embedding', 'decoded' or 'codes'.",
        ),
        (
            HiHPQTransformer(metric="l2"),
            "metric is 'l2' with the objective 'semantic'; expected 'l1', *",
        ),
        (HiHPQTransformer(M=0), "M is 0; expected an integer of at least 1."),
        (HiHPQNeighborsTransformer(0), "n_neighbors is 0; expected an integer of at least 1."),
        (
            HiHPQNeighborsTransformer(120, epochs=0),
            "n_neighbors is 120, and n_samples_fit_ = 120 rows were fitted; expected *",
        ),
        (
            HiHPQNeighborsTransformer(n_jobs=0),
            "n_jobs is 0; expected None, a number of threads, or -1 for one for each core.",
        ),
        (HiHPQNeighborsTransformer(n_jobs="all"), "n_jobs is 'all'; expected None, *"),
        (HiHPQNeighborsTransformer(n_jobs=1.5), "n_jobs is 1.5; expected None, *"),
        (HiHPQNeighborsTransformer(n_jobs=True), "n_jobs is True; expected None, *"),
    ],
)
def test_wrong_parameters(estimator, message):
    pattern = re.escape(message).replace(r"\*", ".*")
    with pytest.raises(InvalidInputError, match=f"^{pattern}$"):
        estimator.fit(X).transform(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors is 0; expected an integer of at least 1."),
        ({"n_neighbors": 120}, "n_neighbors is 120, and * rows were fitted; expected at most 119."),
        ({"X": X, "n_neighbors": 121}, "n_neighbors is 121, and *; expected at most 120."),
        ({"mode": "weights"}, "mode is 'weights'; expected 'connectivity' or 'distance'."),
        ({"X": X, "symmetric": True}, "symmetric is True with rows X of their own; expected *"),
    ],
)
def test_wrong_arguments_of_neighbours(arguments, message):
    made = HiHPQNeighborsTransformer(epochs=0).fit(X)
    pattern = re.escape(message).replace(r"\*", ".*")
    with pytest.raises(InvalidInputError, match=f"^{pattern}$"):
        made.kneighbors_graph(**arguments)


def test_without_sklearn_the_command_is_named():
    program = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import hyperpq\n"
        "from hyperpq.errors import MissingDependencyError\n"
        "try:\n    import hyperpq.estimators\n"
        "except MissingDependencyError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("the estimators need sklearn (")
    assert done.stdout.endswith("install it with `pip install 'hyperpq[sklearn]'`.\n")
