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

from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
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


@pytest.mark.parametrize("objective", ["semantic", "fidelity"])
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
        (HiHPQTransformer(metric="l2"), "metric is 'l2'; expected 'l1', *"),
        (HiHPQTransformer(M=0), "M is 0; expected an integer of at least 1."),
        (HiHPQNeighborsTransformer(0), "n_neighbors is 0; expected an integer of at least 1."),
        (
            HiHPQNeighborsTransformer(120, epochs=0),
            "n_neighbors is 120, and n_samples_fit_ = 120 rows were fitted; expected *",
        ),
    ],
)
def test_wrong_parameters(estimator, message):
    pattern = re.escape(message).replace(r"\*", ".*")
    with pytest.raises(InvalidInputError, match=f"^{pattern}$"):
        estimator.fit(X).transform(X)


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
