"""Protocols: the splits, and that they do not change."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hyperpq.datasets.protocols import (
    Protocol,
    Split,
    cifar10_protocol,
    class_folders,
    folder_protocol,
)
from hyperpq.errors import DatasetError, InvalidInputError

CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay"]


def tree(root, counts):
    """Empty files with the extension of images: protocols never open them."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number:04}.jpg").touch()
    return root


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    counts = {f"train/{name}": 505 for name in CLASSES} | {f"test/{name}": 12 for name in CLASSES}
    return tree(tmp_path_factory.mktemp("cifar10"), counts)


def class_of(path):
    return os.path.basename(os.path.dirname(os.fsdecode(path)))


def check(protocol):
    for split in (protocol.train, protocol.query, protocol.database):
        assert split.labels.dtype == np.int64
        assert len(split) == len(split.labels) == len(set(split.paths))
        assert split.paths == sorted(split.paths)
        for path, label in zip(split.paths, split.labels.tolist(), strict=True):
            assert class_of(path) == protocol.names[label]
    assert not set(protocol.query.paths) & set(protocol.database.paths)
    assert set(protocol.train.paths) <= set(protocol.database.paths)


@pytest.mark.parametrize("which, n_train", [("I", 5050), ("II", 5000)])
def test_cifar10(cifar, which, n_train):
    protocol = cifar10_protocol(cifar, which)
    check(protocol)
    assert protocol.names == CLASSES
    assert (len(protocol.train), len(protocol.query), len(protocol.database)) == (
        n_train,
        120,
        5050,
    )
    assert np.bincount(protocol.train.labels).tolist() == [n_train // 10] * 10
    assert all(b"/test/" in path for path in protocol.query.paths)
    assert all(b"/train/" in path for path in protocol.database.paths)
    assert (protocol.top, protocol.missing) == (1000, 0)


def test_cifar10_queries_and_seeds(cifar):
    protocol = cifar10_protocol(cifar, n_query=25, seed=3)
    check(protocol)
    assert sorted(np.bincount(protocol.query.labels).tolist()) == [2] * 5 + [3] * 5
    again = cifar10_protocol(os.fspath(cifar), "II", n_query=25, seed=3)
    assert again.query.paths == protocol.query.paths
    assert again.train.paths == protocol.train.paths
    other = cifar10_protocol(cifar, n_query=25, seed=4)
    assert other.query.paths != protocol.query.paths
    assert other.train.paths != protocol.train.paths
    # The training set doesn't depend on the number of queries.
    assert cifar10_protocol(cifar, seed=3).train.paths == protocol.train.paths
    for n_query in (0, 121):
        with pytest.raises(InvalidInputError, match="expected 1 to 120"):
            cifar10_protocol(cifar, n_query=n_query)
    with pytest.raises(InvalidInputError, match="III"):
        cifar10_protocol(cifar, "III")


def test_cifar10_errors_say_what_to_put_where(tmp_path):
    with pytest.raises(DatasetError, match=r"does not exist; .*train/CLASS/\*\.jpg"):
        cifar10_protocol(tmp_path)
    tree(tmp_path, {f"train/{name}": 3 for name in CLASSES} | {"test/ant": 2})
    with pytest.raises(DatasetError, match=r"test has the classes ant; put CIFAR-10"):
        cifar10_protocol(tmp_path)
    tree(tmp_path, {f"test/{name}": 2 for name in CLASSES})
    with pytest.raises(DatasetError, match="a class of 3 images; protocol II needs at least 500"):
        cifar10_protocol(tmp_path)
    check(cifar10_protocol(tmp_path, "I"))


def test_folder_protocol(tmp_path):
    root = tree(tmp_path / "zoo", {"ant": 30, "bee": 20, "cat": 1})
    protocol = folder_protocol(root, 10, seed=1)
    check(protocol)
    assert protocol.name == "zoo"
    assert (len(protocol.query), len(protocol.database)) == (10, 41)
    assert protocol.train.paths == protocol.database.paths
    assert (protocol.top, protocol.missing) == (100, 0)
    assert folder_protocol(root, 10, seed=1).query.paths == protocol.query.paths
    assert folder_protocol(root, 10, seed=2).query.paths != protocol.query.paths
    assert len(folder_protocol(root, 50).database) == 1
    with pytest.raises(InvalidInputError, match="n_query is 51; expected 1 to 50"):
        folder_protocol(root, 51)


def test_class_folders(tmp_path):
    root = tree(tmp_path / "set", {"b/x": 2, "b/y": 1, "a": 1})
    files, labels, names = class_folders(root)
    assert names == ["a", "b/x", "b/y"]
    assert labels.tolist() == [0, 1, 1, 2]
    assert [os.path.relpath(os.fsdecode(file.path), root) for file in files] == [
        "a/0000.jpg",
        "b/x/0000.jpg",
        "b/x/0001.jpg",
        "b/y/0000.jpg",
    ]
    files, labels, names = class_folders(root, depth=1)
    assert (names, labels.tolist()) == (["a", "b"], [0, 1, 1, 1])
    with pytest.raises(InvalidInputError, match="depth"):
        class_folders(root, depth=0)
    (root / "loose.png").touch()
    with pytest.raises(DatasetError, match=r"loose\.png is not in a class folder"):
        class_folders(root)
    with pytest.raises(DatasetError, match="does not exist"):
        class_folders(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no image; put images in class folders"):
        class_folders(tmp_path / "empty")


def test_take():
    split = Split([b"a", b"b", b"c"], np.array([0, 1, 1]))
    taken = split.take(np.array([2, 0]))
    assert taken.paths == [b"c", b"a"]
    assert taken.labels.tolist() == [1, 0]


def test_take_of_several_labels():
    split = Split([b"a", b"b", b"c"], np.eye(3, 2, dtype=bool))
    taken = split.take(np.array([2, 0]))
    assert taken.paths == [b"c", b"a"]
    assert taken.labels.tolist() == [[False, False], [True, False]]


def test_relevant_is_the_same_class():
    query = Split([b"p", b"q"], np.array([2, 0]))
    database = Split([b"a", b"b", b"c", b"d"], np.array([0, 2, 1, 2]))
    protocol = Protocol("toy", ["x", "y", "z"], database, query, database, top=4)
    # The last stored image has the first query's class: -1 must not be taken for it.
    found = np.array([[3, 0, -1, 1], [3, 0, -1, 1]])
    expected = [[True, False, False, True], [False, True, False, False]]
    assert protocol.relevant(slice(None), found).tolist() == expected
    assert protocol.relevant(slice(1, 2), found[1:]).tolist() == expected[1:]
    rows = np.array([1, 0, 1])
    assert protocol.relevant(rows, found[rows]).tolist() == [expected[row] for row in rows]


def test_relevant_needs_a_label_in_common():
    query = Split([b"p", b"q"], np.array([[1, 0, 1], [0, 0, 0]], bool))
    database = Split([b"a", b"b", b"c"], np.array([[0, 1, 0], [0, 0, 0], [1, 1, 1]], bool))
    protocol = Protocol("toy", ["x", "y", "z"], database, query, database, top=3)
    found = np.array([[2, 1, 0, -1], [0, 1, 2, -1]])
    relevant = protocol.relevant(slice(None), found)
    assert relevant.tolist() == [[True, False, False, False], [False] * 4]
