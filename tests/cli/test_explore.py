"""`hyperpq map` and `cluster` as processes, on images and on vectors."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest

from hyperpq import HiHPQIndex


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    index = HiHPQIndex(8, 2, device="cpu")
    index.train(x, epochs=0)
    index.add(x)
    path = tmp_path_factory.mktemp("vectors") / "index"
    index.save(path)
    return path


def test_a_map_of_images(hyperpq, place, photos, tmp_path):
    done = hyperpq("map", "--index", place / "hyperpq-index", cwd=tmp_path)
    assert (done.returncode, os.listdir(tmp_path)) == (0, ["map.html"]), done.stderr
    assert b"images  24\n" in done.stdout
    text = (tmp_path / "map.html").read_text("utf-8")
    assert all(photo.name in text for photo in photos)
    quiet = hyperpq("map", "--index", place / "hyperpq-index", "-q", "-o", "a.html", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")
    assert (tmp_path / "a.html").read_text("utf-8") == text


def test_groups_of_images(hyperpq, place, photos, tmp_path):
    base = ["cluster", "--index", place / "hyperpq-index"]
    table = hyperpq(*base, "-n", "4")
    assert table.returncode == 0, table.stderr
    assert len(table.stdout.splitlines()) == 4
    done = hyperpq(*base, "-n", "4", "--links", "groups", "-o", "groups.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert done.stderr.decode().endswith("hyperpq: 24 links to images in 4 folders of groups.\n")
    links = [path for path in (tmp_path / "groups").rglob("*") if path.is_symlink()]
    assert sorted(path.resolve() for path in links) == sorted(photo.resolve() for photo in photos)
    with open(tmp_path / "groups.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == sorted(map(str, photos))
    assert {row["group"] for row in rows} == set("1234")
    again = hyperpq(*base, "--links", "groups", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, b"")
    assert b"groups is not empty" in again.stderr
    level = hyperpq(*base, "--level", "1", "--json")
    assert [json.loads(line)["group"] for line in level.stdout.splitlines()] == [1, 2, 3, 4]
    # All 24 images are still where they were.
    assert all(photo.is_file() and not photo.is_symlink() for photo in photos)


def test_a_report(hyperpq, place, vectors, tmp_path):
    done = hyperpq("info", "--html", "r.html", "--index", place / "hyperpq-index", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert all(f"<h2>{part}</h2>" in text for part in ("Curvatures", "Distances", "Groups"))
    # So few images are too few to train on.
    assert "<h2>Training</h2>" not in text
    done = hyperpq("info", "--html", "r.html", "--index", vectors, cwd=tmp_path)
    assert done.returncode == 0
    assert "<h2>Groups</h2>" in (tmp_path / "r.html").read_text("utf-8")
    for args in (["--open"], ["--json", "--html", "a.html"], ["--html", "a.html"]):
        wrong = hyperpq("info", *args, "--index", tmp_path / "none", cwd=tmp_path)
        assert wrong.returncode in (1, 2)
        assert (wrong.stdout, wrong.stderr.count(b"\n")) == (b"", 1)
    assert os.listdir(tmp_path) == ["r.html"]


def test_groups_of_vectors(hyperpq, vectors, tmp_path):
    done = hyperpq("cluster", "--index", vectors, "-n", "3", "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.decode().splitlines()))
    assert sorted(int(row["id"]) for row in rows) == list(range(40))
    assert {row["group"] for row in rows} == set("123")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("map", "is an index of vectors, and a map shows images"),
        ("cluster --links out", "is an index of vectors, which have no files to link"),
        ("cluster -n 41", "41 clusters are asked for; expected at most 40"),
        ("cluster --level 9", "level is 9; expected an integer"),
        ("cluster -n 1", "Invalid value for '-n'"),
        ("cluster -n 3 --level 2", "--groups"),
        ("cluster -o groups.xyz", "has none of the endings"),
    ],
)
def test_what_is_refused(hyperpq, vectors, tmp_path, args, words):
    done = hyperpq(*args.split(), "--index", vectors, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words.lower() in done.stderr.decode().lower()
    assert done.stderr.count(b"\n") == 1
    assert os.listdir(tmp_path) == []
