"""What counts as measured: features, protocol, recipe and code, and never only the names."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks import confirm, featuresets, provenance, quality
from benchmarks.provenance import DataDigests, canonical, code_digest, recipe_fields
from benchmarks.published import read_set
from benchmarks.runlog import Key, RunLog
from hyperpq.datasets.protocols import Protocol, Split
from hyperpq.training.recipe import Recipe

RAW, NORMALIZED = Key("exact", "raw", 0, 0), Key("exact", "normalized", 0, 0)


def save_noise(cache, name, seed, n=60):
    """A set of noise, 12 queries, in ten classes."""
    rng = np.random.default_rng(seed)
    labels, x = rng.integers(0, 10, n + 12), rng.standard_normal((n + 12, 16)).astype(np.float32)
    database = Split([b"%d" % i for i in range(n)], labels[:n])
    query = Split([b"q"] * 12, labels[n:])
    names = [str(i) for i in range(10)]
    folder = cache / f"{name}-lite0"
    featuresets.save_protocol(folder, Protocol(name, names, database, query, database, 50))
    np.save(folder / "database.npy", x[:n])
    np.save(folder / "query.npy", x[n:])
    return folder


@pytest.fixture
def place(tmp_path):
    """A cache with two sets of noise, and a folder for pages."""
    for seed, name in enumerate(("one", "two")):
        save_noise(tmp_path / "cache", name, seed)
    return tmp_path


def bench(place, name, *options, cache="cache", out="out"):
    """Exact search only, which needs no training."""
    folders = ["--features", str(place / cache), "--out", str(place / out)]
    nothing = ["--recipes", "none", "--baselines", "none"]
    quality.main(["--dataset", f"folder:{name}", *folders, *nothing, *options])
    return (place / out / "quality.md").read_text("utf-8")


def runs(place, name, cache="cache"):
    return RunLog(place / cache / f"{name}-lite0/runs.jsonl").runs


def test_a_run_of_one_set_leaves_the_others_in_the_page(place):
    first = bench(place, "one")
    assert "## one, one-lite0" in first
    # Even where nothing of the other set is in the cache.
    shutil.rmtree(place / "cache/one-lite0")
    both = bench(place, "two")
    assert both.index("## one, one-lite0") < both.index("## two, two-lite0")
    section = first.partition("## one")[2].partition("## How")[0]
    assert section in both
    # A section without runs, as of a page that was written by hand, stays, too.
    page = place / "out/quality.md"
    page.write_text(both.replace("## How", "## old, old-lite0\n\nA table.\n\n## How"))
    assert "## old, old-lite0\n\nA table.\n" in bench(place, "two")


def test_other_features_of_the_same_name_are_measured_and_not_published(place, capsys):
    page = bench(place, "one")
    map_of_one = runs(place, "one")[RAW]["map"]
    other = save_noise(place / "other", "one", 7)
    for option in ((), ("--published",)):
        with pytest.raises(SystemExit, match=r"other features named one-lite0 \(exact search has"):
            bench(place, "one", *option, cache="other")
        assert not (other / "runs.jsonl").exists()
    assert (place / "out/quality.md").read_text("utf-8") == page
    # Published runs that lost their description are not taken up either.
    (place / "out/runs/one-lite0.json").unlink()
    capsys.readouterr()
    bench(place, "one", "--published", cache="other")
    said = capsys.readouterr().out
    assert "took up 0 published runs; 2 others are of other features" in said
    assert runs(place, "one", "other")[RAW]["map"] != map_of_one


def test_published_runs_are_taken_up_only_when_asked(place, capsys):
    bench(place, "one")
    published = place / "out/runs/one-lite0-runs.jsonl"
    marked = [json.loads(line) | {"machine": "another"} for line in published.open()]
    published.write_text("".join(json.dumps(run) + "\n" for run in marked))
    log = place / "cache/one-lite0/runs.jsonl"
    log.unlink()
    bench(place, "one", "--published")
    assert "took up 2 published runs; 0 others" in capsys.readouterr().out
    assert {run["machine"] for run in runs(place, "one").values()} == {"another"}
    log.unlink()
    bench(place, "one")
    assert "another" not in {run["machine"] for run in runs(place, "one").values()}
    # Runs of earlier versions have no digests and are measured again.
    bare = [{k: v for k, v in run.items() if k != "digests"} for run in marked]
    published.write_text("".join(json.dumps(run) + "\n" for run in bare))
    log.unlink()
    capsys.readouterr()
    bench(place, "one", "--published")
    assert "took up 0 published runs; 2 others" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["features", "protocol", "recipe", "code"])
def test_what_changed_is_measured_again_and_said(place, capsys, monkeypatch, changed):
    bench(place, "one", out="a")
    before = runs(place, "one")
    folder = place / "cache/one-lite0"
    if changed == "features":
        x = np.load(folder / "database.npy")
        x[3, 5] = np.nextafter(x[3, 5], np.float32(9))
        np.save(folder / "database.npy", x)
    elif changed == "protocol":
        with np.load(folder / "protocol.npz") as saved:
            parts = dict(saved)
        parts["query"][0] = (parts["query"][0] + 1) % 10
        np.savez(folder / "protocol.npz", **parts)
    elif changed == "recipe":
        monkeypatch.setattr(quality, "FACTORY", {"exact": "another setting"})
    else:
        monkeypatch.setattr(provenance, "code_digest", lambda paths: "other code")
    capsys.readouterr()
    bench(place, "one", out="b")
    said = capsys.readouterr().out
    assert f"runs.jsonl holds of other {changed}\n" in said
    assert said.count("exact raw") == 1
    after = runs(place, "one")
    kept = {
        name
        for name, value in before[RAW]["digests"].items()
        if after[RAW]["digests"][name] == value
    }
    assert kept == {"features", "protocol", "recipe", "code"} - {changed}
    capsys.readouterr()
    bench(place, "one", out="b")
    assert "exact raw" not in capsys.readouterr().out


def test_digests_know_views_and_rows(cache):
    features = featuresets.open_set("folder:groups", None, cache)
    more = featuresets.open_set("folder:groups", None, cache, more=5)
    few = featuresets.open_set("folder:groups", None, cache, queries=7)
    found = [DataDigests(one) for one in (features, more, few)]
    assert len({one.protocol for one in found}) == len({one.features() for one in found}) == 3
    assert found[0].features("mild") == found[0].features("paper") != found[0].features()
    views = np.array(features.views("mild"))
    views[1, 2, 3] += 1
    np.save(cache / "groups-lite0/views-mild.npy", views)
    again = DataDigests(featuresets.open_set("folder:groups", None, cache))
    assert again.features() == found[0].features()
    assert again.features("mild") != found[0].features("mild")
    # Views that are not there are not extracted for a digest.
    (cache / "groups-lite0/views-paper.npy").unlink()
    assert again.features("paper") == provenance.ABSENT


def test_code_counts_and_comments_do_not(tmp_path):
    source = (
        '"""Module."""\nimport os\n\n\ndef f(x, y=1):\n    """Doc."""\n    return x + y  # why\n'
    )
    same = 'import os\ndef f(x,\n      y=1):\n    """Other words."""\n    return (x + y)\n'
    assert canonical(source) == canonical(same)
    for old, new in (("x + y", "x - y"), ("y=1", "y=2"), ("import os", "import re"), ("f(", "g(")):
        assert canonical(source) != canonical(source.replace(old, new))
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/one.py").write_text(source)
    (tmp_path / "a/two.h").write_text("int two;")
    first = code_digest(("a",), tmp_path)
    (tmp_path / "a/b/one.py").write_text(same)
    (tmp_path / "a/notes.txt").write_text("not code")
    code_digest.cache_clear()
    assert code_digest(("a",), tmp_path) == first
    (tmp_path / "a/two.h").write_text("int three;")
    code_digest.cache_clear()
    assert code_digest(("a",), tmp_path) != first


def test_the_scan_on_gpus_is_left_out_of_the_digest(tmp_path):
    (tmp_path / "hyperpq/scan/cuda").mkdir(parents=True)
    (tmp_path / "hyperpq/scan/one.py").write_text("x = 1")
    code_digest.cache_clear()
    first = code_digest(("hyperpq/scan",), tmp_path)
    (tmp_path / "hyperpq/scan/cuda/two.py").write_text("x = 2")
    code_digest.cache_clear()
    assert code_digest(("hyperpq/scan",), tmp_path) == first


def test_some_queries_are_a_set_of_their_own(place):
    page = bench(place, "one")
    page = bench(place, "one", "--queries", "5")
    assert "12 other images are queries" in page and "5 other images are queries" in page
    assert "--queries 5" in page
    assert read_set("one-lite0-q5", place / "out").n_query == 5
    log = RunLog(place / "cache/one-lite0-q5/runs.jsonl").runs
    features = featuresets.open_set("folder:one", None, place / "cache", queries=5)
    query = np.load(place / "cache/one-lite0/query.npy")
    np.testing.assert_array_equal(features.query, query[features.query_rows])
    assert len(set(features.query_rows)) == 5
    assert features.folder != features.source and set(log) == {RAW, NORMALIZED}
    with pytest.raises(SystemExit, match="queries is 13; expected 1 to 12"):
        bench(place, "one", "--queries", "13")


def test_a_small_folder_says_how_to_choose_the_queries(drawn, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"is 1000; expected 1 to \d+; choose it with --queries"):
        quality.main(["--dataset", f"folder:{drawn}", "--features", str(tmp_path)])
    seen = []

    def extract(split, file, backbone, strength=None):
        seen.append((file.name, len(split)))
        np.save(file, np.random.default_rng(0).standard_normal((len(split), 16)).astype("f4"))

    monkeypatch.setattr(featuresets, "extract", extract)
    made = featuresets.open_set(f"folder:{drawn}", None, tmp_path, queries=9)
    assert seen == [("query.npy", 9), ("database.npy", 63)]
    assert made.source == made.folder and made.folder.name == f"{drawn.name}-lite0-q9"
    assert len(made.images().query) == 9


def test_runs_of_earlier_code_are_confirmed_if_it_measures_the_same(place, monkeypatch, capsys):
    bench(place, "one")
    bench(place, "two")
    published = place / "out/runs/one-lite0-runs.jsonl"
    before = published.read_text()
    told = ["--features", str(place / "cache"), "--out", str(place / "out")]
    confirm.main(["--dataset", "folder:one", *told])
    assert published.read_text() == before  # nothing is of earlier code
    monkeypatch.setattr(provenance, "code_digest", lambda paths: "later code")
    changed = [json.loads(line) for line in before.splitlines()]
    changed[1]["map10"] += 0.001
    published.write_text("".join(json.dumps(run) + "\n" for run in changed))
    capsys.readouterr()
    confirm.main(["--dataset", "folder:one", *told])
    said = capsys.readouterr().out
    assert "exact raw: confirmed" in said and "exact normalized: other map10" in said
    after = RunLog(published).runs
    assert after[RAW]["digests"] == changed[0]["digests"] | {"code": "later code"}
    assert (after[RAW]["confirmed"]["bits"], after[RAW]["confirmed"]["seed"]) == (0, 0)
    assert after[RAW]["map"] == changed[0]["map"]
    assert after[NORMALIZED] == changed[1]


def test_what_was_never_published_cannot_be_confirmed(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit, match="docs/results has no published runs of one-lite0"):
        confirm.main(["--dataset", "folder:one", "--features", str(place / "cache")])
    assert not (place / "docs").exists()


def test_the_commit_of_a_run_says_whether_the_sources_differ_from_it(tmp_path):
    assert provenance.current_commit(tmp_path) is None

    def git(*words):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *name, *words], cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    (tmp_path / "hyperpq").mkdir()
    (tmp_path / "hyperpq/a.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "One")
    commit = git("rev-parse", "--short=9", "HEAD")
    provenance.current_commit.cache_clear()
    assert provenance.current_commit(tmp_path) == commit
    (tmp_path / "hyperpq/a.py").write_text("2")
    provenance.current_commit.cache_clear()
    assert provenance.current_commit(tmp_path) == f"{commit} with changes"
    provenance.current_commit.cache_clear()


def test_fields_of_a_recipe_without_effect_do_not_count():
    plain = Recipe()
    assert recipe_fields(plain) == recipe_fields(plain.replace(balance=0.5))
    assert recipe_fields(plain) != recipe_fields(plain.replace(epochs=3))
    balanced = plain.replace(objective="balanced")
    assert recipe_fields(balanced) != recipe_fields(balanced.replace(balance=0.5))
