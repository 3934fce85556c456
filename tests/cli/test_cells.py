"""Cells on the command line: `build`, `query`, `compact` and `info`."""

from __future__ import annotations

import json

import numpy as np

from hyperpq import HiHPQIndex


def test_images_in_cells_are_built_and_searched(place, photos, hyperpq, tmp_path):
    build = ("build", "--images", "photos", "--codec", "hyperpq-index", "--index", tmp_path / "i")
    done = hyperpq(*build, "--cells", "4", cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    built = HiHPQIndex.load(tmp_path / "i", device="cpu")
    assert built.nlist == 4
    measured = built.collection.view().recall_curve
    assert measured is not None
    assert measured.n == 24

    def found(*options):
        asked = ("query", photos[0], "--index", tmp_path / "i", "-k", "24", "--json", *options)
        done = hyperpq(*asked, cwd=place)
        assert done.returncode == 0, done.stderr.decode()
        (answer,) = json.loads(done.stdout)
        return answer["results"]

    whole = found()
    assert len(whole) == 24
    assert found("--nprobe", "4") == whole
    some = found("--nprobe", "1")
    assert 0 < len(some) < 24
    paths = [result["path"] for result in some]
    in_order = [result["path"] for result in whole if result["path"] in paths]
    assert paths == in_order

    # So few images are searched as a whole.
    assert found("--recall", "0.9") == found("--recall", "1") == whole
    both = hyperpq("query", photos[0], "--nprobe", "2", "--recall", "0.9", cwd=place)
    assert (both.returncode, both.stdout) == (2, b"")
    assert b"nprobe is 2 and recall is 0.9" in both.stderr

    again = hyperpq(*build, "--cells", "5", cwd=place)
    assert (again.returncode, again.stdout) == (2, b"")
    assert b"cells is 5; " in again.stderr
    assert b"was built with 4; leave the option out" in again.stderr
    wrong = hyperpq(*build, "--cells", "many", cwd=place)
    assert wrong.returncode == 2
    assert b"'many' is neither auto nor a number of cells" in wrong.stderr
    none = hyperpq("query", photos[0], "--nprobe", "2", cwd=place)
    assert none.returncode == 2
    assert b"nprobe is 2, but the index has no cells" in none.stderr
    none = hyperpq("serve", "--recall", "0.9", cwd=place)
    assert (none.returncode, none.stdout) == (2, b"")
    assert b"recall is 0.9, but hyperpq-index has no cells; make them with" in none.stderr


def test_compact_makes_cells_and_info_shows_them(tmp_path, hyperpq):
    centres = np.random.default_rng(0).normal(size=(20, 8))
    x = centres[np.arange(6000) % 20] + 0.3 * np.random.default_rng(1).normal(size=(6000, 8))
    index = HiHPQIndex(8, 2, 4, metric="l2", device="cpu")
    index.train(x[:500])
    index.add(x[:1000])
    index.save(tmp_path / "i")

    def shown():
        done = hyperpq("info", "--json", "--index", tmp_path / "i")
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)["index"]

    def compact(*options):
        done = hyperpq("compact", "--index", tmp_path / "i", *options)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    assert shown()["cells"] == "none"
    assert "cells" not in compact()
    assert "cells" in compact("--cells", "1")
    assert shown()["cells"] == "1 with 1,000.0 rows in the mean, imbalance 1.00"
    index = HiHPQIndex.load(tmp_path / "i", device="cpu")
    index.add(x[1000:])
    assert "outgrown" in shown()["cells"]
    assert "not measured" in shown()["recall"]
    compact()
    assert shown()["recall"].endswith("measured with 6,000 rows")
    for n, measured in ((1000, 6000), (2500, 9500)):
        np.save(tmp_path / "more.npy", x[:n] + np.float64(n) / 1e4)
        done = hyperpq("add", tmp_path / "more.npy", "--index", tmp_path / "i")
        assert done.returncode == 0, done.stderr.decode()
        assert shown()["recall"].endswith(f"measured with {measured:,} rows")
    compact("--cells", "auto")
    assert shown()["cells"].startswith("8 with 1,187.5 rows in the mean, imbalance ")
    assert "outgrown" not in shown()["cells"]
    compact("--cells", "0")
    assert shown()["cells"] == "none"
    wrong = hyperpq("compact", "--index", tmp_path / "i", "--cells", "-1")
    assert (wrong.returncode, b"neither auto nor a number" in wrong.stderr) == (2, True)
