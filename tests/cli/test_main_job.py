"""The main commands from end to end: build, query, add, info, verify, encode and train."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.cli.output import seconds


def ok(done, *, silent_stderr=True):
    assert done.returncode == 0, done.stderr.decode()
    if silent_stderr:
        assert done.stderr == b""
    return done.stdout.decode()


def fact(text, name):
    """Value of a line of a summary."""
    return re.search(rf"^\s*{name}  +(.*)$", text, re.M).group(1)


def test_the_summary_of_a_build(place, photos):
    text = (place / "build.txt").read_text()
    assert fact(text, "images") == str(len(photos))
    assert fact(text, "skipped") == "0"
    assert fact(text, "code") == "64 bits, 8 bytes per image"
    assert fact(text, "index") == "hyperpq-index"
    assert re.search(r"features [0-9.]+ s", fact(text, "seconds"))


def test_only_phases_that_took_time_are_shown():
    assert seconds({"list": 0.049, "encode": 0.06, "save": 12.34}) == "encode 0.1 s, save 12.3 s"
    assert seconds({"list": 0.0}) == "less than 0.1 s"


def test_the_next_command_of_the_summary_works(hyperpq, place, photos):
    """As it stands: it names an image of the index."""
    typed = shlex.split(fact((place / "build.txt").read_text(), "next"))
    query = typed.index("query")
    assert typed[:query] in (["hyperpq"], [sys.executable, "-m", "hyperpq"])
    assert typed[query + 1 :] == [os.path.relpath(photos[0], place)]
    text = ok(hyperpq(*typed[query:], cwd=place))
    assert len(text.splitlines()) == 11


def test_the_summary_quotes_an_index_with_a_space(hyperpq, photos, tmp_path):
    text = ok(
        hyperpq("build", "--images", photos[0], "--index", "my index", cwd=tmp_path),
        silent_stderr=False,
    )
    assert fact(text, "next").endswith(f" query {photos[0]} --index 'my index'")


def test_building_again_encodes_nothing(hyperpq, copy):
    """The images of the copy have other paths: a first build encodes all, a second one none."""
    shards = copy / "hyperpq-index/shards"
    # It says that there are still too few to learn from.
    first = ok(hyperpq("build", "--images", "photos", cwd=copy), silent_stderr=False)
    assert fact(first, "added") == "24"
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in shards.iterdir()}
    manifest = (copy / "hyperpq-index/manifest.json").read_bytes()
    again = ok(hyperpq("build", "photos", "--images", copy / "photos", cwd=copy))
    assert fact(again, "added") == "0"
    assert fact(again, "removed") == "0"
    assert fact(again, "images") == "48"
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in shards.iterdir()} == before
    assert (copy / "hyperpq-index/manifest.json").read_bytes() == manifest


def test_add_and_query_and_verify(hyperpq, copy, drawn):
    new = copy / "new"
    new.mkdir()
    added = shutil.copy(sorted(drawn.rglob("*.jpg"))[-1], new / "added.jpg")
    (new / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = hyperpq("add", "new", cwd=copy)
    text = ok(done, silent_stderr=False)
    # So small an index learns again with every image, and still by PCA and k-means.
    [warning] = done.stderr.decode().splitlines()
    assert warning.startswith("hyperpq: 25 items are too few to learn from, which takes 160")
    assert fact(text, "fitted again") == (
        "the index learned from 24 images and has 25 now (PCA and k-means)"
    )
    assert fact(text, "added") == "1"
    assert fact(text, "images") == "25"
    assert fact(text, "skipped").startswith(f"1 (e.g. {new / 'broken.jpg'}: ")
    assert "broken.jpg" in (copy / "hyperpq-index/skipped.csv").read_text()
    # Another image may have the same code, and ties are resolved by the lower id.
    found = ok(hyperpq("query", added, "-k", "3", "--format", "paths", cwd=copy))
    assert f"{added}" in found.splitlines()
    assert "as they were written" in ok(hyperpq("verify", cwd=copy))
    # No image is added twice.
    assert fact(ok(hyperpq("add", "new", cwd=copy)), "added") == "0"


def test_verify_names_what_is_damaged(hyperpq, copy):
    shard = next((copy / "hyperpq-index/shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (copy / "hyperpq-index/stray.bin").write_bytes(b"x")
    done = hyperpq("verify", "--quiet", cwd=copy)
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert any(line.startswith(f"damage  shards/{shard.name}: ") for line in lines)
    assert any("stray.bin" in line and not line.startswith("damage") for line in lines)
    done = hyperpq("verify", "--json", cwd=copy)
    assert done.returncode == 1
    found = {problem["file"]: problem["kind"] for problem in json.loads(done.stdout)}
    assert found == {f"shards/{shard.name}": "damage", "stray.bin": "garbage"}
    # A file that does not belong to the index is no damage.
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "stray.bin" in ok(hyperpq("verify", cwd=copy))


def test_results_in_a_file(hyperpq, place, photos, tmp_path):
    done = hyperpq("query", photos[0], "gone.jpg", "-o", tmp_path / "out.txt", cwd=place)
    assert done.returncode == 1
    text = done.stdout.decode()
    assert (fact(text, "queries"), fact(text, "file")) == ("1", str(tmp_path / "out.txt"))
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 10


def test_info(hyperpq, place):
    facts = json.loads(ok(hyperpq("info", "--json", cwd=place)))
    assert facts["index"]["images"] == 24
    assert facts["index"]["backbone"] == "lite0"
    assert facts["index"]["code"] == "8 x 8 bits, 8 bytes"
    assert facts["machine"]["device"] in ("cpu", "cuda:0")
    text = ok(hyperpq("info", cwd=place))
    for section, content in facts.items():
        assert f"{section}\n" in text
        for name in content:
            assert f"  {name}" in text


def test_info_without_an_index(hyperpq, tmp_path):
    assert "no index yet" in ok(hyperpq("info", cwd=tmp_path))


def test_encode(hyperpq, place, photos, tmp_path):
    """Codes are those of the index, in the order of the names on stdout."""
    out = tmp_path / "codes.npy"
    names = ok(hyperpq("encode", "photos", "-o", out, cwd=place)).splitlines()
    assert names == [str(path) for path in photos]
    codes = np.load(out)
    index = HiHPQIndex.load(place / "hyperpq-index", device="cpu")
    view = index.collection.view()
    assert [os.fsdecode(path) for path in view.paths_of(index.ids)] == names
    np.testing.assert_array_equal(codes, view.codes_of(index.ids))


def test_encode_names_bad_images(hyperpq, place, photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    index = place / "hyperpq-index"
    out = tmp_path / "codes.npy"
    done = hyperpq("encode", tmp_path / "bad.jpg", photos[3], "-o", out, "--index", index)
    assert done.returncode == 1
    assert done.stdout == bytes(photos[3]) + b"\n"
    assert done.stderr.decode() == f"hyperpq: {tmp_path / 'bad.jpg'}: empty file\n"
    assert np.load(out).shape == (1, 8)


def test_vectors(hyperpq, tmp_path):
    """train, add and encode have the same results as the library."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 24)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "views.npy", np.stack([x, x + 0.01]).astype(np.float16))
    options = ("--bits", "16", "--epochs", "1", "--seed", "4", "--metric", "chord")
    text = ok(
        hyperpq("train", "x.npy", "--views", "views.npy", *options, cwd=tmp_path),
        silent_stderr=False,
    )
    assert fact(text, "code") == "16 bits, 2 bytes per vector"
    assert fact(text, "trained on") == "300 vectors of width 24"
    text = ok(hyperpq("import", "x.npy", "x.npy", "--again", cwd=tmp_path))
    assert fact(text, "vectors") == "600"
    ok(hyperpq("encode", "x.npy", "-o", "codes.npy", cwd=tmp_path))
    index = HiHPQIndex.load(tmp_path / "hyperpq-index", device="cpu")
    assert (index.ntotal, index.metric, index.M) == (600, "chord", 2)
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), index.encode(x))
    stored = index.collection.view().codes_of(index.ids)
    np.testing.assert_array_equal(stored, np.tile(index.encode(x), (2, 1)))
    same = HiHPQIndex(24, 2, metric="chord", device="cpu")
    same.train(x, np.stack([x, x + 0.01]).astype(np.float16), epochs=1, seed=4)
    np.testing.assert_array_equal(same.encode(x), index.encode(x))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(hyperpq, shell):
    script = ok(hyperpq("completion", shell))
    assert "_HYPERPQ_COMPLETE" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.encode(), check=True)


def test_completion_completes(hyperpq):
    env = {"_HYPERPQ_COMPLETE": "bash_complete", "COMP_WORDS": "hyperpq bu", "COMP_CWORD": "1"}
    assert ok(hyperpq(env=env)) == "plain,build\n"
    env |= {"COMP_WORDS": "hyperpq build --im"}
    env |= {"COMP_CWORD": "2"}
    assert ok(hyperpq(env=env)) == "plain,--images\nplain,--images-from\n"


def test_quiet_is_silent(hyperpq, copy):
    for command in (
        ("build", "--images", "photos"),
        ("add", "photos"),
        ("verify",),
    ):
        done = hyperpq(*command, "--quiet", cwd=copy)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), command


def test_a_terminal_gets_bars_and_a_file_does_not(place, tmp_path):
    """Progress bars are written to stderr if it is a terminal, and never into the summary."""
    import pty
    import sys

    main, side = pty.openpty()
    command = (sys.executable, "-m", "hyperpq", "build", "--images", place / "photos")
    with subprocess.Popen(
        [*command, "--epochs", "0", "--index", tmp_path / "i"],
        stdout=subprocess.PIPE,
        stderr=side,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "HYPERPQ_PROGRESS": ""},
    ) as process:
        os.close(side)
        shown = b""
        while True:
            try:
                piece = os.read(main, 1 << 16)
            except OSError:  # Linux ends a terminal without readers or writers by EIO
                break
            if not piece:
                break
            shown += piece
        summary = process.stdout.read().decode()
    os.close(main)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "features" in text
    assert "24/24" in text
    assert "images/s" in text
    assert "\x1b" not in summary
    assert fact(summary, "images") == "24"
