"""Flickr25K and NUS-WIDE-21, on small trees in the layouts in which they are distributed."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from hyperpq.datasets.multilabel import (
    FLICKR25K_LABELS,
    NUSWIDE_CONCEPTS,
    flickr25k_protocol,
    nuswide_protocol,
)
from hyperpq.errors import DatasetError, InvalidInputError

R1 = "baby bird car clouds dog female flower male night people portrait river sea tree"
CONCEPTS = (
    "airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds "
    "computer coral cow dancing dog earthquake elk fire fish flags flowers food fox frost garden "
    "glacier grass harbor horses house lake leaf map military moon mountain nighttime ocean person "
    "plane plants police protest railroad rainbow reflection road rocks running sand sign sky snow "
    "soccer sports statue street sun sunset surf swimmers tattoo temple tiger tower town toy train "
    "tree valley vehicle water waterfall wedding whales window zebra"
)
FLICKR_SIZES = {"n_query": 6, "n_train": 10}
NUSWIDE_SIZES = {"query_per_concept": 2, "train_per_concept": 3}
CLASSES = ["actor", "cul-de-sac", "f-16"]


@pytest.fixture(scope="module")
def flickr_source(tmp_path_factory):
    """60 images; label n is that of the images n, n + 24, n + 48, and of each fifth n + 1."""
    root = tmp_path_factory.mktemp("flickr25k")
    images, annotations = root / "mirflickr", root / "mirflickr25k_annotations_v080"
    (images / "doc").mkdir(parents=True)
    annotations.mkdir()
    for number in range(1, 61):
        (images / f"im{number}.jpg").touch()
    (annotations / "README.txt").write_text("MIRFLICKR-25000 annotations\n")
    for column, label in enumerate(FLICKR25K_LABELS):
        numbers = [n for n in range(1, 59) if column in flickr_columns(n)]
        (annotations / f"{label}.txt").write_text("".join(f"{n}\n" for n in numbers))
        if label in R1.split():
            (annotations / f"{label}_r1.txt").write_text(f"{numbers[0]}\n")
    return root


def flickr_columns(number):
    """The labels of an image; 59 and 60 are in no file."""
    return {number % 24} | ({(number - 1) % 24} if number % 5 == 0 else set())


@pytest.fixture
def flickr(flickr_source, tmp_path):
    return shutil.copytree(flickr_source, tmp_path / "flickr25k")


@pytest.fixture(scope="module")
def nuswide_source(tmp_path_factory):
    """800 listed images, of which each tenth isn't on disk; all 81 concepts."""
    root = tmp_path_factory.mktemp("nuswide")
    labels = root / "Groundtruth" / "AllLabels"
    labels.mkdir(parents=True)
    (root / "ImageList").mkdir()
    names = [f"{CLASSES[n * 3 // 800]}\\{n:04}_{7 * n}.jpg" for n in range(800)]
    (root / "ImageList" / "Imagelist.txt").write_text("".join(f"{name}\n" for name in names))
    for n, name in enumerate(names):
        path = root / "Flickr" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if n % 10:
            path.touch()
    for column, concept in enumerate(CONCEPTS.split()):
        text = "".join(f"{int(column in nuswide_columns(n))}\n" for n in range(800))
        (labels / f"Labels_{concept}.txt").write_text(text)
    return root


def nuswide_columns(n):
    """Concepts of an image, out of 81: one of its own, and sky for many."""
    return {n % 81} | ({CONCEPTS.split().index("sky")} if n % 2 and n % 81 > 40 else set())


@pytest.fixture
def nuswide(nuswide_source, tmp_path):
    return shutil.copytree(nuswide_source, tmp_path / "nuswide")


def check(protocol, labels_of):
    """Check the splits; ``labels_of(path)`` gives the labels of an image."""
    for split in (protocol.train, protocol.query, protocol.database):
        assert split.labels.dtype == bool
        assert split.labels.shape == (len(split), len(protocol.names))
        assert len(set(split.paths)) == len(split)
        for path, row in zip(split.paths, split.labels, strict=True):
            assert os.path.isfile(path)
            assert {protocol.names[i] for i in np.flatnonzero(row)} == labels_of(path)
    assert not set(protocol.query.paths) & set(protocol.database.paths)
    assert set(protocol.train.paths) <= set(protocol.database.paths)
    assert protocol.top == 5000


def test_flickr25k(flickr_source):
    protocol = flickr25k_protocol(flickr_source, **FLICKR_SIZES)

    def labels_of(path):
        number = int(os.path.basename(path)[2:-4])
        return {FLICKR25K_LABELS[i] for i in flickr_columns(number)}

    check(protocol, labels_of)
    assert protocol.names == FLICKR25K_LABELS == sorted(FLICKR25K_LABELS)
    assert len(protocol.names) == 24
    # Images 59 and 60 have no label.
    assert (len(protocol.train), len(protocol.query), len(protocol.database)) == (10, 6, 52)
    assert protocol.missing == 0
    used = protocol.query.paths + protocol.database.paths
    assert not any(path.endswith((b"/im59.jpg", b"/im60.jpg")) for path in used)


def test_flickr25k_seeds_and_sizes(flickr_source):
    one = flickr25k_protocol(flickr_source, seed=1, **FLICKR_SIZES)
    again = flickr25k_protocol(os.fspath(flickr_source), seed=1, **FLICKR_SIZES)
    other = flickr25k_protocol(flickr_source, seed=2, **FLICKR_SIZES)
    assert (again.query.paths, again.train.paths) == (one.query.paths, one.train.paths)
    assert other.query.paths != one.query.paths
    assert len(flickr25k_protocol(flickr_source, n_query=8, n_train=50).database) == 50
    with pytest.raises(InvalidInputError, match="n_query is 0"):
        flickr25k_protocol(flickr_source, n_query=0)
    with pytest.raises(InvalidInputError, match="n_train is -1"):
        flickr25k_protocol(flickr_source, n_train=-1)
    # The published sizes are the defaults.
    with pytest.raises(DatasetError, match=r"58 images with a label; .* 2000 queries and 5000 tr"):
        flickr25k_protocol(flickr_source)


@pytest.mark.parametrize(
    "text, message",
    [
        ("3\nten\n", "'ten' in line 2; expected the number of an image"),
        ("3\n\n4\n", "'' in line 2; expected the number"),
        ("-3\n", "'-3' in line 1; expected the number"),
        ("3\n4\n0\n", "'0' in line 3; there is no such image"),
        ("3\n61\n", "'61' in line 2; there is no such image"),
        ("9" * 5000, "'9{60}' in line 1; there is no such image"),
        ("\n", "is empty"),
    ],
)
def test_flickr25k_malformed_annotations(flickr, text, message):
    file = flickr / "mirflickr25k_annotations_v080" / "lake.txt"
    file.write_text(text)
    with pytest.raises(
        DatasetError, match=rf"lake\.txt (has )?{message}.*; put the files of mirfl"
    ):
        flickr25k_protocol(flickr, **FLICKR_SIZES)


def test_flickr25k_other_line_ends(flickr, flickr_source):
    for file in (flickr / "mirflickr25k_annotations_v080").iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b" \r\n"))
    protocol = flickr25k_protocol(flickr, **FLICKR_SIZES)
    original = flickr25k_protocol(flickr_source, **FLICKR_SIZES)
    assert np.array_equal(protocol.database.labels, original.database.labels)


def test_flickr25k_incomplete(flickr, tmp_path):
    with pytest.raises(DatasetError, match=r"mirflickr cannot be read .*mirflickr25k\.zip in"):
        flickr25k_protocol(tmp_path / "nothing")
    (flickr / "mirflickr" / "im25.jpg").unlink()
    with pytest.raises(DatasetError, match=r"animals\.txt has '25' in line 2; there is no such"):
        flickr25k_protocol(flickr, **FLICKR_SIZES)
    (flickr / "mirflickr" / "im25.jpg").touch()
    (flickr / "mirflickr25k_annotations_v080" / "water.txt").unlink()
    with pytest.raises(DatasetError, match=r"water\.txt cannot be read \(No such file"):
        flickr25k_protocol(flickr, **FLICKR_SIZES)


def test_nuswide(nuswide_source):
    protocol = nuswide_protocol(nuswide_source, **NUSWIDE_SIZES)

    def labels_of(path):
        number = int(os.path.basename(path)[:4])
        all_labels = {CONCEPTS.split()[i] for i in nuswide_columns(number)}
        return all_labels & set(NUSWIDE_CONCEPTS)

    check(protocol, labels_of)
    assert protocol.names == NUSWIDE_CONCEPTS == sorted(NUSWIDE_CONCEPTS)
    assert len(protocol.names) == 21
    assert (len(protocol.query), len(protocol.train)) == (2 * 21, 3 * 21) == (42, 63)
    for split, count in ((protocol.query, 2), (protocol.train, 3)):
        assert split.labels.sum(axis=0).min() >= count
    labelled = [n for n in range(800) if labels_of(b"%04d_.jpg" % n)]
    there = [n for n in labelled if n % 10]
    assert len(there) < len(labelled) < 800
    assert protocol.missing == len(labelled) - len(there)
    assert len(protocol.query) + len(protocol.database) == len(there)
    first = os.path.join(os.fsencode(nuswide_source), b"Flickr/actor/0001_7.jpg")
    assert first in protocol.query.paths + protocol.database.paths


def test_nuswide_seeds_and_sizes(nuswide_source):
    one = nuswide_protocol(nuswide_source, seed=1, **NUSWIDE_SIZES)
    again = nuswide_protocol(os.fspath(nuswide_source), seed=1, **NUSWIDE_SIZES)
    other = nuswide_protocol(nuswide_source, seed=2, **NUSWIDE_SIZES)
    assert (again.query.paths, again.train.paths) == (one.query.paths, one.train.paths)
    assert other.query.paths != one.query.paths
    with pytest.raises(InvalidInputError, match="query_per_concept is 0"):
        nuswide_protocol(nuswide_source, query_per_concept=0)
    with pytest.raises(InvalidInputError, match="train_per_concept is 0"):
        nuswide_protocol(nuswide_source, train_per_concept=0)
    # The published sizes are the defaults.
    with pytest.raises(DatasetError, match=r"on disk, .* needs 100 queries and 500 training"):
        nuswide_protocol(nuswide_source)


def test_nuswide_rare_concepts_come_first(nuswide):
    """A frequent concept does not use the images that a rare one needs, with any seed."""
    labels = nuswide / "Groundtruth" / "AllLabels"
    lakes = [n for n in range(800) if n % 81 == CONCEPTS.split().index("lake") and n % 10][:5]
    animals = (labels / "Labels_animal.txt").read_text().split()
    lines = [f"{int(n in lakes or animals[n] == '1')}\n" for n in range(800)]
    (labels / "Labels_animal.txt").write_text("".join(lines))
    lines = [f"{int(n in lakes)}\n" for n in range(800)]
    (labels / "Labels_lake.txt").write_text("".join(lines))
    for seed in range(5):
        protocol = nuswide_protocol(nuswide, seed=seed, **NUSWIDE_SIZES)
        lake = NUSWIDE_CONCEPTS.index("lake")
        assert protocol.query.labels[:, lake].sum() == 2
        assert protocol.train.labels[:, lake].sum() == 3


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        (
            "ImageList/Imagelist.txt",
            "actor\\0003",
            "actor-0003",
            r"'actor-0003_21\.jpg' in line 4; expected CLASS",
        ),
        ("ImageList/Imagelist.txt", "actor\\0003", "C:\\actor\\0003", "'C:/actor/0003.* in line 4"),
        ("ImageList/Imagelist.txt", "actor\\0003", "\\0003", "'/0003.* in line 4"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "0\n", "2\n", "'2' in line 1; expected 0 or 1"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "0\n", "no\n", "'no' in line 1; expected 0"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "0\n", "", "799 lines; expected 800 as in .*txt"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "0\n", "0\n1\n", "801 lines; expected 800"),
    ],
)
def test_nuswide_malformed(nuswide, file, old, new, message):
    text = (nuswide / file).read_text()
    assert old in text
    (nuswide / file).write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError, match=rf"{file} has {message}.*; put the images of NUS-WIDE"):
        nuswide_protocol(nuswide, **NUSWIDE_SIZES)


def test_nuswide_incomplete(nuswide):
    shutil.move(nuswide / "Flickr", nuswide / "images")
    with pytest.raises(DatasetError, match=r" 0 of \d+ labelled images on disk.* in .*Fli"):
        nuswide_protocol(nuswide, **NUSWIDE_SIZES)
    for file in ("Groundtruth/AllLabels/Labels_window.txt", "ImageList/Imagelist.txt"):
        (nuswide / file).unlink()
        with pytest.raises(DatasetError, match=rf"{file} cannot be read \(No such file"):
            nuswide_protocol(nuswide, **NUSWIDE_SIZES)


def test_relevance_is_a_shared_label(nuswide_source):
    protocol = nuswide_protocol(nuswide_source, **NUSWIDE_SIZES)
    rng = np.random.default_rng(0)
    found = rng.integers(-1, len(protocol.database), size=(len(protocol.query), 30))
    expected = np.zeros(found.shape, bool)
    for query, row in np.ndindex(found.shape):
        if found[query, row] >= 0:
            stored = protocol.database.labels[found[query, row]]
            expected[query, row] = (protocol.query.labels[query] & stored).any()
    relevant = protocol.relevant(slice(None), found)
    assert relevant.dtype == bool
    assert np.array_equal(relevant, expected)
    assert 0 < expected.sum() < expected.size
    assert (found == -1).any()
    assert np.array_equal(protocol.relevant(slice(5, 9), found[5:9]), expected[5:9])
    rows = np.array([7, 0, 7])
    assert np.array_equal(protocol.relevant(rows, found[rows]), expected[rows])
