"""Commands on an index in S3, as processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from hyperpq import HiHPQIndex, ImageIndex
from hyperpq.errors import StoreError
from hyperpq.images.build import build_index


@pytest.fixture(scope="module")
def images(drawn, tmp_path_factory):
    """A folder with 12 images, and an index of it."""
    folder = tmp_path_factory.mktemp("remote")
    (folder / "imgs").mkdir()
    for n, path in enumerate(sorted(drawn.rglob("*.jpg"))[:12]):
        shutil.copy(path, folder / "imgs" / f"{n}.jpg")
    build_index(folder / "imgs", folder / "index", epochs=0, n_views=1)
    return folder


def run(cwd, *args, stdout=subprocess.PIPE):
    args = [sys.executable, "-m", "hyperpq", *map(str, args)]
    done = subprocess.run(
        args, cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_images_are_searched_where_they_were_published(images, bucket, tmp_path):
    url, copy = f"s3://{bucket}/index", tmp_path / "index"
    shutil.copytree(images / "index", copy)
    assert run(tmp_path, "push", url, "--index", copy)[0] == 0
    query = ("query", images / "imgs" / "3.jpg", "-k", "3", "--json", "--index")
    here, there = run(tmp_path, *query, copy), run(tmp_path, *query, url)
    assert here[0] == there[0] == 0, there
    assert there[1] == here[1]
    assert len(json.loads(there[1])[0]["results"]) == 3

    # What would change it says what to do.
    code, _, error = run(tmp_path, "forget", "x.jpg", "--index", url)
    assert code == 2 and "hyperpq push" in error
    for opened in (ImageIndex.open(url).index, HiHPQIndex.load(url, device="cpu")):
        assert opened.ntotal == 12
        with pytest.raises(StoreError, match="pull it from its URL"):
            opened.remove_ids([0])

    # Another machine changes it.
    assert run(tmp_path, "pull", url, "--index", "other")[0] == 0
    assert run(tmp_path, "remove", "--where", "id < 2", "--index", "other")[0] == 0
    assert run(tmp_path, "push", url, "--index", "other", "--prune", stdout=None)[0] == 0
    assert HiHPQIndex.load(url, device="cpu").ntotal == 10
    assert run(tmp_path, "remove", "--where", "id == 5", "--index", copy)[0] == 0
    code, out, error = run(tmp_path, "push", url, "--index", copy)
    assert (code, out) == (1, "")
    assert error.startswith("hyperpq: error: s3://") and "another writer has published" in error
    closed = f'"{sys.executable}" -m hyperpq pull {url} --index third >&-'
    assert subprocess.run(closed, shell=True, cwd=tmp_path, timeout=120).returncode == 0
    code, out, error = run(tmp_path, "pull", url + "x", "--index", "new")
    assert (code, out) == (1, "") and "there is no index here" in error


def test_a_damaged_copy_is_copied_again(images, bucket, tmp_path):
    url = f"s3://{bucket}/index"
    assert run(tmp_path, "push", url, "--index", images / "index")[0] == 0
    for reads in (
        lambda: run(tmp_path, "verify", "--index", url)[0] == 0,
        lambda: run(tmp_path, "info", "--index", url)[0] == 0,
        lambda: HiHPQIndex.load(url, device="cpu", verify=True).ntotal == 12,
    ):
        assert reads()
        (shard,) = (tmp_path / "cache").rglob("*.h5")
        shard.write_bytes(shard.read_bytes()[:100])
        assert reads()
