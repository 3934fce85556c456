"""Builds, updates and queries of tar shards from the command line."""

from __future__ import annotations

import tarfile


def test_shards_are_built_updated_and_searched(hyperpq, copy, photos):
    for number in range(2):
        with tarfile.open(copy / f"s-{number:02}.tar", "w") as tar:
            for path in photos[number::2]:
                tar.add(path, f"{path.parent.name}/{path.name}")
                tar.add(__file__, f"{path.parent.name}/{path.stem}.txt")
    shards = "--images", "s-{00..01}.tar", "--index", "shards"
    codec = next(copy.glob("*hyperpq*"))
    done = hyperpq("build", *shards, "--codec", codec, cwd=copy)
    assert done.returncode == 0, done.stderr.decode()
    assert b"24 files of other kinds (24 .txt)" in done.stdout
    done = hyperpq("update", "--index", "shards", cwd=copy)
    assert done.returncode == 0, done.stderr.decode()
    name = f"s-01.tar/{photos[1].parent.name}/{photos[1].name}"
    done = hyperpq("query", name, "-k", "1", "--format", "paths", "--index", "shards", cwd=copy)
    assert done.stdout.decode() == f"{copy}/{name}\n"
    done = hyperpq("info", "--index", "shards", cwd=copy)
    assert f"{copy}/s-01.tar" in done.stdout.decode()
    done = hyperpq("build", "--images", "s-{00..02}.tar", "--index", "none", cwd=copy)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"s-02.tar does not exist" in done.stderr
