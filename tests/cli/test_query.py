"""`hyperpq query`: names of images, formats, exit codes, and only results on stdout."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hyperpq import ImageIndex
from hyperpq.index.hihpq_index import HiHPQIndex

K = 4


@pytest.fixture(scope="session")
def reference(place, photos):
    """The answers of the library for the first three images."""
    index = ImageIndex.open(place / "hyperpq-index", device="cpu")
    return index.query(photos[:3], K)


def results(answer):
    return [result.to_dict() for result in answer.results]


def query(hyperpq, place, *args, code=0, **options):
    done = hyperpq("query", *args, cwd=place, **options)
    assert done.returncode == code, done.stderr.decode()
    if not code:
        assert done.stderr == b""
    return done


def from_json(done):
    return json.loads(done.stdout)


def names(done):
    return [answer["query"] for answer in from_json(done)]


def check_table(text, reference):
    lines = iter(text.splitlines())
    for answer in reference:
        assert next(lines) == answer.query
        for r in answer.results:
            rank, distance, similarity, path = next(lines).split(maxsplit=3)
            assert (int(rank), path) == (r.rank, r.path)
            assert float(distance) == pytest.approx(r.distance, abs=1e-4)
            assert float(similarity) == pytest.approx(r.similarity, abs=0.05)
    assert next(lines, None) is None


def check_paths(text, reference):
    assert text.splitlines() == [os.fsdecode(r.path) for a in reference for r in a.results]


def check_json(text, reference):
    found = json.loads(text)
    assert found == [
        {"query": os.fsdecode(answer.query), "results": results(answer)} for answer in reference
    ]
    # The names and their order are documented, and 1.0 is written as a float.
    assert list(found[0]) == ["query", "results"]
    fields = ["rank", "distance", "similarity", "id", "path", "attributes"]
    assert list(found[0]["results"][0]) == fields
    types = [type(value) for value in found[0]["results"][0].values()]
    assert types == [int, float, float, int, str, dict]


def check_ndjson(text, reference):
    assert text.endswith("\n")
    check_json("[" + ",".join(text.splitlines()) + "]", reference)


def check_csv(text, reference):
    rows = list(csv.DictReader(io.StringIO(text)))
    flat = [(os.fsdecode(a.query), r) for a in reference for r in results(a)]
    assert len(rows) == len(flat)
    for row, (name, expected) in zip(rows, flat, strict=True):
        columns = ["rank", "distance", "similarity", "id", "path"]
        assert list(row) == ["query", *columns]
        assert row == {"query": name, **{key: str(expected[key]) for key in columns}}


@pytest.mark.parametrize(
    "style, check",
    [
        ("table", check_table),
        ("paths", check_paths),
        ("json", check_json),
        ("ndjson", check_ndjson),
        ("csv", check_csv),
    ],
)
def test_formats(hyperpq, place, photos, reference, style, check):
    # The number of threads does not change an answer.
    threads = ("--threads", "3", "--workers", "1") if style == "ndjson" else ()
    done = query(hyperpq, place, *photos[:3], "-k", str(K), "--format", style, *threads)
    check(done.stdout.decode(), reference)


def test_refinement_can_be_left_out(hyperpq, place, photos, reference):
    index = ImageIndex.open(place / "hyperpq-index", device="cpu")
    plain = index.query(photos[:3], K, refine=0)
    assert plain != reference
    done = query(hyperpq, place, *photos[:3], "-k", str(K), "--json", "--no-refine")
    check_json(done.stdout.decode(), plain)


def test_refinement_needs_features(hyperpq, place, photos, tmp_path):
    """The message has the words of the command line, for images and for vectors."""
    index = ImageIndex.open(place / "hyperpq-index", device="cpu").index
    kept = index.features_of(index.ids)
    without = HiHPQIndex.from_codec(index.codec, device="cpu")
    without.add(kept)
    without.save(tmp_path / "without")
    np.save(tmp_path / "x.npy", kept[:2])
    for name in (photos[0], tmp_path / "x.npy"):
        options = ("--index", tmp_path / "without", "--refine")
        done = query(hyperpq, place, name, *options, code=2)
        (line,) = done.stderr.decode().splitlines()
        assert "without keeps no features, which --refine ranks by" in line
        assert "--features int8" in line
    with_them = ("-k", "5", "--json", "--refine")
    done = query(hyperpq, place, photos[0], *with_them)
    assert done.stdout == query(hyperpq, place, photos[0], *with_them[:-1]).stdout


def test_every_way_to_name_queries(hyperpq, place, photos, tmp_path):
    """Images, a folder, a list and stdin in one call are answered in their order."""
    listed = tmp_path / "list.txt"
    listed.write_bytes(bytes(photos[2]) + b"\r\n\n" + bytes(photos[3]) + b"\n")
    done = query(
        hyperpq,
        place,
        *(photos[5], photos[0].parent, f"@{listed}", "-", "photos/../" + str(photos[1])[1:]),
        *("-k", "1", "--format", "json"),
        stdin=bytes(photos[4]),
        code=1,
    )
    in_folder = sorted(photos[0].parent.iterdir())
    expected = [photos[5], *in_folder, photos[2], photos[3], photos[4]]
    assert names(done) == [str(path) for path in expected]
    assert done.stderr.decode().endswith(": no such file\n")


def test_a_bad_query_costs_one_line_and_the_others_are_answered(hyperpq, place, photos, tmp_path):
    (tmp_path / "text.jpg").write_bytes(b"not an image")
    (tmp_path / "torn.jpg").write_bytes(photos[0].read_bytes()[:300])
    bad = [tmp_path / "text.jpg", tmp_path / "gone.jpg", tmp_path / "torn.jpg"]
    done = query(
        hyperpq,
        place,
        *(bad[0], photos[0], bad[1], photos[1], bad[2]),
        *("-k", "2", "--format", "json", "--quiet"),
        code=1,
    )
    assert names(done) == [str(photos[0]), str(photos[1])]
    lines = done.stderr.decode().splitlines()
    assert [line.rpartition(": ")[0] for line in lines] == [f"hyperpq: {path}" for path in bad]
    assert lines[0].endswith(": not an image")
    assert lines[1].endswith(": no such file")
    assert "truncated" in lines[2]


# A process without the rights of root to read everything; PR_CAPBSET_DROP is 24.
WITHOUT_RIGHTS = """
import ctypes, os, sys
if os.geteuid() == 0:
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0):
            sys.exit(77)
os.execv(sys.executable, [sys.executable, "-m", "hyperpq", *sys.argv[1:]])
"""


@pytest.fixture
def closed(copy):
    """The photos of a copy, two folders of which cannot be read."""
    folders = sorted((copy / "photos").iterdir())
    for folder in folders[:2]:
        folder.chmod(0)
    yield folders
    for folder in folders[:2]:
        folder.chmod(0o755)


def run_without_rights(place, *args):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHTS, *map(os.fspath, args)],
        cwd=place,
        capture_output=True,
        timeout=120,
    )
    if done.returncode == 77:
        pytest.skip("the rights of root to read everything cannot be dropped")
    return done


def test_folders_that_cannot_be_read_are_named(closed, copy):
    """Those below a folder were left out in silence; one that was named stopped the others."""
    readable = [path for folder in closed[2:] for path in sorted(folder.iterdir())]
    relative = [os.path.relpath(folder, copy) for folder in closed]
    image = os.path.relpath(readable[0], copy)
    options = ("-k", "1", "--format", "json")
    done = run_without_rights(copy, "query", "photos", *options)
    assert done.returncode == 1
    assert names(done) == [str(path) for path in readable]
    assert done.stderr.decode().splitlines() == [
        f"hyperpq: {folder}: permission denied" for folder in closed[:2]
    ]
    done = run_without_rights(copy, "query", relative[0], image, relative[1], *options)
    assert done.returncode == 1
    assert names(done) == [image]
    refused = [f"hyperpq: {folder}: permission denied" for folder in relative[:2]]
    assert done.stderr.decode().splitlines() == refused
    done = run_without_rights(copy, "query", relative[0], *options)
    assert (done.returncode, from_json(done)) == (1, [])
    assert done.stderr.decode().splitlines() == refused[:1]


def test_folders_that_cannot_be_read_are_named_by_encode(closed, copy):
    readable = [path for folder in closed[2:] for path in sorted(folder.iterdir())]
    done = run_without_rights(copy, "encode", "photos", "-o", "codes.npy")
    assert done.returncode == 1
    assert done.stdout.decode().splitlines() == [str(path) for path in readable]
    assert done.stderr.decode().splitlines() == [
        f"hyperpq: {folder}: permission denied" for folder in closed[:2]
    ]
    assert len(np.load(copy / "codes.npy")) == len(readable)
    done = run_without_rights(copy, "encode", os.path.relpath(closed[0], copy), "-o", "none.npy")
    assert done.returncode == 1
    assert done.stderr.decode().endswith(": permission denied\n")
    assert np.load(copy / "none.npy").shape == (0, np.load(copy / "codes.npy").shape[1])


def test_only_bad_queries(hyperpq, place):
    done = query(hyperpq, place, "gone.jpg", "--format", "json", code=1)
    assert from_json(done) == []
    assert done.stderr == b"hyperpq: gone.jpg: no such file\n"


def test_exclude_self(hyperpq, place, photos, tmp_path):
    """The query image is excluded by any of its paths; a copy of it is another file."""
    shutil.copy(photos[1], tmp_path / "copy.jpg")
    relative = os.path.relpath(photos[0], place)
    done = query(
        hyperpq,
        place,
        *(relative, tmp_path / "copy.jpg", "-k", "30", "--exclude-self", "--format", "json"),
    )
    first, second = from_json(done)
    assert first["query"] == relative
    paths = [result["path"] for result in first["results"]]
    assert sorted(paths) == sorted(str(path) for path in photos[1:])
    assert [result["rank"] for result in first["results"]] == list(range(1, 24))
    assert len(second["results"]) == 24


def test_k_larger_than_the_index(hyperpq, place, photos):
    done = query(hyperpq, place, photos[0], "-k", "1000000", "--format", "json")
    (answer,) = from_json(done)
    distances = [result["distance"] for result in answer["results"]]
    assert len(distances) == len(photos)
    assert distances == sorted(distances)
    assert sorted(result["path"] for result in answer["results"]) == [str(p) for p in photos]


def test_the_index_of_the_environment_and_of_the_option(hyperpq, place, photos, tmp_path):
    env = {"HYPERPQ_INDEX": str(place / "hyperpq-index")}
    found = query(hyperpq, tmp_path, photos[0], "--format", "paths", env=env)
    assert len(found.stdout.splitlines()) == 10
    env = {"HYPERPQ_INDEX": str(tmp_path / "none")}
    lost = query(hyperpq, place, photos[0], env=env, code=1)
    assert f"{tmp_path / 'none'}: there is no index here" in lost.stderr.decode()
    option = ("--index", "hyperpq-index", "-k", "1")
    assert len(query(hyperpq, place, photos[0], *option, env=env).stdout.splitlines()) == 2


def test_names_that_are_not_utf8(hyperpq, place, photos, tmp_path):
    """JSON is valid Unicode that gives the bytes back; lists of names have the bytes themselves."""
    folder = bytes(tmp_path / "images")
    os.mkdir(folder)
    odd = [
        os.path.join(folder, name) for name in (b"caf\xe9.jpg", b"a\nb 'c' \xf0\x9f\x8c\x8d.jpg")
    ]
    for path, photo in zip(odd, photos, strict=False):
        shutil.copy(photo, path)
    index = tmp_path / "index"
    built = hyperpq("build", "--images", folder, "--index", index, "--epochs", "0")
    assert built.returncode == 0
    options = ("-k", "1", "--index", index, "--format")
    done = query(hyperpq, tmp_path, *odd, b"gone\xe9\x1b[2J.jpg", *options, "json", code=1)
    done.stdout.decode("ascii")
    first, second = from_json(done)
    assert first["query"] == odd[0].decode("utf-8", "replace")
    assert base64.b64decode(first["query_bytes"]) == odd[0]
    (result,) = first["results"]
    assert result["path"] == first["query"]
    assert list(result)[-3:] == ["path", "path_bytes", "attributes"]
    assert base64.b64decode(result["path_bytes"]) == odd[0]
    assert list(second) == ["query", "results"]
    assert second["query"] == second["results"][0]["path"] == odd[1].decode()
    assert done.stderr == rb"hyperpq: $'gone\xe9\x1b[2J.jpg': no such file" + b"\n"
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = query(hyperpq, tmp_path, odd[0], *options, "paths", env=env)
    assert done.stdout == odd[0] + b"\n"


def test_a_reader_that_has_seen_enough(place):
    """``hyperpq query ... | head -1`` is no error."""
    command = f"{sys.executable} -m hyperpq query photos -k 24 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == b""


def test_results_are_limited_by_distance_similarity_and_existence(hyperpq, copy, photos):
    def found(*limits):
        done = query(hyperpq, copy, photos[0], "--json", "-n", "24", *limits)
        return from_json(done)[0]["results"]

    every = found()
    third = every[2]
    near = found("--max-distance", repr(third["distance"]))
    assert near == [r for r in every if r["distance"] <= third["distance"]]
    alike = found("--min-similarity", repr(third["similarity"]))
    assert alike == [r for r in every if r["similarity"] >= third["similarity"]]
    assert 1 <= len(near) < 24
    assert found("--existing") == every
    done = hyperpq("query", photos[0], "--min-similarity", "100", "--max-distance=-1", cwd=copy)
    assert done.stderr.decode() == (
        "hyperpq: nothing was found: no image is within --min-similarity and --max-distance.\n"
    )


def test_a_query_that_finds_nothing_says_why(hyperpq, place, photos):
    where = ("--where", "folder == 'nowhere'")
    done = hyperpq("query", photos[0], *where, "--format", "paths", cwd=place)
    assert (done.returncode, done.stdout) == (0, b"")
    said = (
        "hyperpq: no row has the folder 'nowhere'.\n"
        "hyperpq: nothing was found: no image fulfils the condition folder == 'nowhere'\n"
    )
    assert done.stderr.decode() == said
    quiet = hyperpq("query", photos[0], *where, "--format", "paths", "--quiet", cwd=place)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")


def changed_index(place, target, change):
    """An empty index with another record of its network."""
    index = HiHPQIndex.load(place / "hyperpq-index", device="cpu")
    fresh = HiHPQIndex(index.d, index.M, device="cpu")
    metadata = json.loads(json.dumps(index.metadata))
    change(metadata["pictures"]["backbone"])
    fresh.codec, fresh.metadata = index.codec, metadata
    fresh.save(target)
    return target


def other_weights(record):
    record["weights_hash"] = "0" * 32


def other_preprocessing(record):
    record["preprocessing"]["interpolation"] = "bilinear"


@pytest.mark.parametrize(
    "change, word", [(other_weights, "weights"), (other_preprocessing, "preprocessing")]
)
def test_another_network_is_refused(hyperpq, place, photos, tmp_path, change, word):
    index = changed_index(place, tmp_path / "index", change)
    done = query(hyperpq, tmp_path, photos[0], "--index", index, code=1)
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"hyperpq: error: backbone 'lite0' has the {word} ")
    assert "; expected " in line


def test_an_index_does_not_choose_a_program_to_run(hyperpq, place, photos, tmp_path):
    """A TorchScript file is code, and is loaded only if the user names it."""
    import torch

    class Wide(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).repeat(1, 4)

    file = tmp_path / "net.pt"
    torch.jit.script(Wide()).save(str(file))
    network = f"torchscript:{file}"
    index = ("--index", tmp_path / "index")
    built = hyperpq("build", "--images", *photos[:2], *index, "--backbone", network)
    assert built.returncode == 0, built.stderr.decode()
    assert f" --backbone {network}\n" in built.stdout.decode()
    refused = query(hyperpq, tmp_path, photos[0], *index, code=1)
    (line,) = refused.stderr.decode().splitlines()
    assert "can run code" in line
    assert "--backbone torchscript:FILE" in line
    file.rename(tmp_path / "moved.pt")
    moved = ("--backbone", f"torchscript:{tmp_path / 'moved.pt'}")
    done = query(hyperpq, tmp_path, photos[0], *index, *moved, "-k", "1", "--format", "paths")
    assert done.stdout == bytes(photos[0]) + b"\n"
