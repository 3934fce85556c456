"""From folders to an index: which files are indexed, which are skipped and why, and updates."""

from __future__ import annotations

import csv
import json
import operator
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_tools import Grid, build, fill, image, paths_of, tree, update
from PIL import Image

from hyperpq import ImageIndex
from hyperpq.codec.serialization import to_files
from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.errors import (
    BackboneError,
    DatasetError,
    IndexLockedError,
    IndexNotFoundError,
    InvalidInputError,
)
from hyperpq.images.build import build_index, update_index, working_directory
from hyperpq.images.build.options import BuildOptions
from hyperpq.images.build.state import BuildState
from hyperpq.images.metadata import ImageMetadata
from hyperpq.images.roots import recorded_roots
from hyperpq.images.skipped import from_csv
from hyperpq.progress import SilentProgress
from hyperpq.store.lock import writer_lock


@pytest.mark.parametrize("count", [1, 2, 10, 15, 16, 17, 255])
def test_few_images_make_a_working_index(tmp_path, count):
    """Every image is its own nearest neighbour, except for images with the same code."""
    index, report = build([fill(tmp_path / "p", count)], tmp_path / "index", bits=32)
    assert (report.images, report.added, report.removed, report.skipped) == (
        count,
        count,
        0,
        {},
    )
    codes = index.index.collection.view().codes_of(np.arange(count))
    files = sorted((tmp_path / "p").iterdir())
    for row, answer in enumerate(index.query(files, count)):
        assert len(answer.results) == count
        (same,) = [r for r in answer.results if r.path == str(files[row])]
        nearest = answer.results[0]
        assert nearest.distance == same.distance
        assert (codes[nearest.id] == codes[same.id]).all()
    # Codes are distinct as long as there are no more images than codewords.
    assert len(np.unique(codes, axis=0)) == count


def test_the_same_image_many_times(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(40):
        image(0).save(folder / f"{i}.png")
    index, _ = build([folder], tmp_path / "index")
    (answer,) = index.query([folder / "7.png"], 50)
    assert len({result.distance for result in answer.results}) == 1
    assert [result.id for result in answer.results] == list(range(40))


ZOO = {
    "plain.jpg": {"quality": 95},
    "cmyk.jpg": {"convert": "CMYK"},
    "grey-alpha.png": {"convert": "RGBA"},
    "palette.png": {"convert": "P"},
    "image.gif": {"convert": "P"},
    "image.webp": {"lossless": True},
    "image.tiff": {},
    "image.bmp": {},
    "jpeg-named.png": {"format": "JPEG"},
    "no-extension": {"format": "PNG"},
    "UPPER.JPEG": {},
    " space and\nnewline'\".png": {},
    "naïve-日本-🌈.png": {},
    os.fsdecode(b"latin-\xe9\xff.png"): {},
    "deep/er/est/image.jpg": {},
}


def make_zoo(folder, drawn):
    """The same image in all formats and modes, all kinds of broken files, and other images."""
    good = sorted(path for path in drawn.rglob("*") if path.suffix in (".png", ".jpg"))
    scene = Image.open(good[0]).convert("RGB").resize((64, 48))
    for name, options in ZOO.items():
        options = dict(options)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = options.pop("convert", "RGB")
        stored = scene.quantize(128) if mode == "P" else scene.convert(mode)
        stored.save(path, **options)
    turned = scene.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    turned.save(folder / "turned.jpg", exif=exif, quality=95)
    deep = np.asarray(image(2000).convert("L"), np.uint16) * 256
    Image.fromarray(deep).save(folder / "16-bit.png")
    for i in range(6):
        Image.open(good[10 * i + 9]).save(folder / f"other-{i}.png")
    whole = (folder / "plain.jpg").read_bytes()
    skipped = {
        "empty.jpg": ("empty", b""),
        "text.jpg": ("not an image", b"Hello, I am no image."),
        "truncated.jpg": ("truncated", whole[: len(whole) // 2]),
        "header.png": ("damaged", b"\x89PNG\r\n\x1a\n"),
        "noise.webp": ("not an image", np.random.default_rng(0).bytes(3000)),
    }
    for name, (_, data) in skipped.items():
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_text("not skipped but no candidate either")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken-link.jpg").symlink_to("nowhere")
    (folder / "deep/loop").symlink_to("..")
    (folder / "deep/again.jpg").symlink_to("../plain.jpg")
    (folder / "folder.jpg").mkdir()
    reasons = {name: reason for name, (reason, _) in skipped.items()}
    return reasons | {"pipe.jpg": "not a regular file", "broken-link.jpg": "broken link"}


def test_every_kind_of_file(tmp_path, drawn):
    """With the real network, in one process: no file in a folder ends the build."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    skipped = make_zoo(folder, drawn)
    command = [sys.executable, "-m", "hyperpq", "build", "--images", folder, "--epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    summary = done.stdout.decode()
    assert f"skipped   {len(skipped)} (e.g. " in summary
    assert "not read  1 file of another kind (1 .txt)\n" in summary

    index = ImageIndex.open(tmp_path / "hyperpq-index", device="cpu")
    same = {*ZOO, "turned.jpg"}
    others = {"16-bit.png", *(f"other-{i}.png" for i in range(6))}
    assert paths_of(index) == sorted(str(folder / name) for name in same | others)

    text = (tmp_path / "hyperpq-index/skipped.csv").read_bytes()
    found = from_csv(text)
    assert sorted(found) == sorted(bytes(folder / name) for name in skipped)
    for name, reason in skipped.items():
        assert reason in found[bytes(folder / name)], name
    rows = list(csv.reader(text.decode().splitlines()))
    assert rows[0] == ["path", "reason"]
    assert len(rows) == len(skipped) + 1

    # In any format, the image finds its copies before any other image.
    for answer in index.query([folder / name for name in sorted(same)], 3, exclude_self=True):
        assert {os.path.relpath(os.fsdecode(r.path), folder) for r in answer.results} < same


def test_what_is_left_out(tmp_path):
    folder = fill(tmp_path / "p", 2)
    for name in (".hidden", "@eaDir", "raw", "drafts", "kept"):
        fill(folder / name, 1)
    image(5, (300, 200)).save(folder / "large.png")
    (folder / ".hyperpqignore").write_text("drafts/\n")
    index, report = build([folder], tmp_path / "i", exclude=["raw/"], max_megapixels=0.05)
    names = [os.path.relpath(path, folder) for path in paths_of(index)]
    assert names == ["000.png", "001.png", "kept/000.png"]
    assert list(report.skipped) == [bytes(folder / "large.png")]
    assert "megapixels" in report.skipped[bytes(folder / "large.png")]

    # An update keeps these options, and the limit applies to queries too.
    fill(folder / "raw", 1, 50)
    image(6, (300, 200)).save(folder / "large2.png")
    index, report = update([folder], tmp_path / "i")
    assert (report.added, report.removed, len(report.skipped)) == (0, 0, 2)
    assert "megapixels" in index.query([folder / "large.png"])[0].error

    # A later build can include more files.
    options = {"include_hidden": True, "exclude": ["kept"], "max_megapixels": 1.0}
    index, report = update([folder], tmp_path / "i", **options)
    names = [os.path.relpath(path, folder) for path in paths_of(index)]
    assert names == [
        *(".hidden/000.png", "000.png", "001.png", "@eaDir/000.png"),
        *("large.png", "large2.png", "raw/000.png", "raw/050.png"),
    ]
    assert report.skipped == {}


def contents_of(folder):
    return {path: path.read_bytes() for path in folder.iterdir()}


def test_updates_follow_any_changes(tmp_path):
    """Random changes of a folder; each update encodes exactly what is new or changed."""
    folder = fill(tmp_path / "p", 12)
    index, _ = build([folder], tmp_path / "index")
    choice = random.Random(4)
    number, stamp = 100, 10**9
    for _ in range(12):
        before = {path: path.stat() for path in folder.iterdir()}
        contents_before = contents_of(folder)
        files = sorted(before)
        for _ in range(choice.randrange(4)):
            path = choice.choice(files)
            number, stamp = number + 1, stamp + 1
            action = choice.choice(["add", "remove", "touch", "rename", "rewrite"])
            if action == "add":
                image(number).save(folder / f"{number}.png")
            elif not path.exists():
                continue
            elif action == "remove":
                path.unlink()
            elif action == "touch":
                os.utime(path, (stamp, stamp))
            elif action == "rename":
                path.rename(folder / f"{number}.png")
            else:
                image(number, (40, 40)).save(path)
                os.utime(path, (stamp, stamp))
        now = {path: path.stat() for path in folder.iterdir()}
        same = {
            path
            for path in now.keys() & before.keys()
            if (now[path].st_size, now[path].st_mtime_ns)
            == (before[path].st_size, before[path].st_mtime_ns)
        }
        files_before = tree(tmp_path / "index")
        network = Grid()
        index, report = update([folder], tmp_path / "index", network)
        assert network.seen == report.added == len(now) - len(same) - report.moved
        assert report.removed == len(before) - len(same) - report.moved
        # A file that was renamed or touched, and not written, is not encoded again.
        contents = Counter(contents_before.values()) & Counter(contents_of(folder).values())
        assert report.moved == contents.total() - len(same)
        assert report.images == len(index) == len(now)
        assert paths_of(index) == sorted(str(path) for path in now)
        files_after = tree(tmp_path / "index")
        # Small shards may be joined into new ones; none is ever written again.
        both = [name for name in files_before if name in files_after and name.endswith(".h5")]
        assert all(files_after[name] == files_before[name] for name in both)
        if len(same) == len(now) == len(before):
            assert files_after == files_before
    # A changed image is found by its new content.
    for answer in index.query(sorted(folder.iterdir()), len(index)):
        best = answer.results[0].distance
        assert any(r.path == answer.query and r.distance == best for r in answer.results)


def test_removal_is_limited_to_the_folders_that_were_listed(tmp_path):
    a, b = fill(tmp_path / "a", 3), fill(tmp_path / "ab", 3, 10)
    index, _ = build([a, b], tmp_path / "index")
    (a / "000.png").unlink()
    (b / "010.png").unlink()
    index, report = update([a], tmp_path / "index")
    assert (report.removed, len(index)) == (1, 5)
    index, report = update_index([b], tmp_path / "index", remove_missing=False, backbone=Grid())
    assert (report.removed, len(index)) == (0, 5)
    index, report = update([b], tmp_path / "index")
    assert (report.removed, len(index)) == (1, 4)


def test_a_folder_without_images_removes_nothing(tmp_path):
    """If a disk is not mounted, the index must not become empty."""
    folder = fill(tmp_path / "p", 3)
    build([folder], tmp_path / "index")
    before = tree(tmp_path / "index")
    folder.rename(tmp_path / "away")
    folder.mkdir()
    with pytest.raises(DatasetError, match=r"p has no image, and .*index has 3 of its images"):
        update([folder], tmp_path / "index")
    assert tree(tmp_path / "index") == before


def test_a_skipped_file_leaves_the_list_when_it_is_repaired_or_gone(tmp_path):
    folder = fill(tmp_path / "p", 3)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_bytes(b"")
    _, report = build([folder], tmp_path / "index")
    assert len(report.skipped) == 3
    image(9).save(folder / "a.jpg")
    (folder / "b.jpg").unlink()
    _, report = update([folder], tmp_path / "index")
    assert report.added == 1
    assert from_csv((tmp_path / "index/skipped.csv").read_bytes()) == report.skipped
    assert list(report.skipped) == [bytes(folder / "c.jpg")]


def test_an_index_among_the_images_is_not_indexed(tmp_path):
    folder = fill(tmp_path / "p", 3)
    place = folder / "index"
    index, _ = build([folder], place)
    fill(place, 1, 70)
    index, report = update([folder], place)
    assert (len(index), report.added) == (3, 0)
    (place / "070.png").unlink()
    index, _ = build([folder], place, overwrite=True)
    assert len(index) == 3
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["index"]


def test_overwriting_keeps_the_old_index_until_the_new_one_is_whole(tmp_path):
    folder = fill(tmp_path / "p", 40)
    build([folder], tmp_path / "index")
    before = tree(tmp_path / "index")
    network = Grid()
    network.fails_after = 100
    with pytest.raises(BackboneError, match="the network failed"):
        build([folder], tmp_path / "index", network, overwrite=True, bits=16)
    assert tree(tmp_path / "index") == before
    index, report = build([folder], tmp_path / "index", overwrite=True, bits=16)
    assert (index.index.code_size, report.added, len(index)) == (2, 40, 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "p"]


def test_options_are_kept_for_life(tmp_path):
    folder = fill(tmp_path / "p", 3)
    build([folder], tmp_path / "index", bits=24, seed=5, metric="chord")
    fill(folder, 1, 60)
    index, report = update([folder], tmp_path / "index", bits=24, seed=5)
    assert (report.added, index.index.M, index.index.metric) == (1, 3, "chord")
    before = tree(tmp_path / "index")
    for name, value in {
        "bits": 64,
        "seed": 0,
        "metric": "l1",
        "train_size": 9,
        "epochs": 2,
    }.items():
        with pytest.raises(
            InvalidInputError, match=f"^{name.replace('_', '-')} is {value}; .* was built with "
        ):
            update([folder], tmp_path / "index", **{name: value})
    assert tree(tmp_path / "index") == before


def test_the_same_seed_builds_the_same_bytes(tmp_path):
    """The threads, the place of the index and the order of the folders do not matter."""
    folders = [fill(tmp_path / "a", 20), fill(tmp_path / "b", 20, 30)]
    build(folders, tmp_path / "one", seed=7, workers=1)
    (tmp_path / "one").rename(tmp_path / "first")
    build(folders[::-1], tmp_path / "one", seed=7, workers=5)
    assert tree(tmp_path / "one") == tree(tmp_path / "first")
    # The manifest says where the folders are, seen from the index.
    build(folders, tmp_path / "deep/two", seed=7)
    one, two = (tree(tmp_path / name) for name in ("one", "deep/two"))
    manifests = [json.loads(files.pop("manifest.json")) for files in (one, two)]
    roots = [m["settings"]["metadata"]["pictures"].pop("roots") for m in manifests]
    assert [[root.pop("relative") for root in of] for of in roots] == [
        ["../a", "../b"],
        ["../../a", "../../b"],
    ]
    assert (one, roots[0]) == (two, roots[1])
    assert manifests[0]["settings"] == manifests[1]["settings"]
    build(folders, tmp_path / "three", seed=8)
    assert tree(tmp_path / "one") != tree(tmp_path / "three")


def test_opening_an_index_whose_build_was_interrupted(tmp_path):
    work = working_directory(tmp_path / "index")
    work.mkdir()
    (work / ".lock").touch()
    with pytest.raises(IndexNotFoundError, match=r"no index here \(no such folder\)"):
        ImageIndex.open(tmp_path / "index")
    (work / "state.json").touch()
    with pytest.raises(IndexNotFoundError, match=r"a build of it was interrupted; .* --resume"):
        ImageIndex.open(tmp_path / "index")


def test_two_builds_of_one_index_exclude_each_other(tmp_path):
    folder = fill(tmp_path / "p", 3)
    work = working_directory(tmp_path / "index")
    work.mkdir()
    for options in ({"resume": True}, {"overwrite": True}, {}):
        with writer_lock(work), pytest.raises(IndexLockedError, match="another process"):
            build([folder], tmp_path / "index", **options)
    index, _ = build([folder], tmp_path / "index", resume=True)
    assert len(index) == 3


def test_a_relative_index_and_relative_folders(tmp_path, monkeypatch):
    """Stored paths are absolute, so that the answer does not depend on the current folder."""
    folder = fill(tmp_path / "here/p", 3)
    monkeypatch.chdir(tmp_path / "here")
    build(["p", "./p/../p"], "i")
    monkeypatch.chdir(tmp_path)
    index, report = update(["here/p"], "here/i")
    assert (report.added, report.removed) == (0, 0)
    assert paths_of(index) == sorted(str(path) for path in folder.iterdir())


def test_a_moved_index_counts_moved_images_as_new(tmp_path):
    """Images are identified by their path, and those of another folder are not removed."""
    folder = fill(tmp_path / "one/p", 3)
    build([folder], tmp_path / "one/i")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    index, report = update([tmp_path / "two/p"], tmp_path / "two/i")
    assert (report.added, len(index)) == (3, 6)


@pytest.mark.parametrize(("kind", "size"), [("int8", 4 + 48), ("float16", 96), ("none", 0)])
def test_features_are_kept_from_the_first_build_on(tmp_path, kind, size):
    """So that the index can learn again without decoding an image; by default as int8."""
    folder = fill(tmp_path / "p", 20)
    index, _ = build([folder], tmp_path / "index", **({} if kind == "int8" else {"features": kind}))
    fill(folder, 2, 30)
    image(99).save(folder / "000.png")
    index, report = update([folder], tmp_path / "index", features=kind)
    assert (report.added, report.removed) == (3, 1)
    stats = index.index.stats()
    assert stats.feature_bytes == size * (stats.rows + stats.deleted_rows)
    assert index.index.has_features == (kind != "none")
    version = json.loads((tmp_path / "index/manifest.json").read_text())["version"]
    assert version == (3 if kind == "none" else 4)
    other = "none" if kind == "int8" else "int8"
    with pytest.raises(InvalidInputError, match=f"^features is {other}; .* was built with {kind}"):
        update([folder], tmp_path / "index", features=other)
    if kind == "none":
        return
    paths = paths_of(index)
    rows = {
        path: id for id, path in enumerate(map(os.fsdecode, index.index.paths_of(index.index.ids)))
    }
    kept = index.index.features_of(index.index.ids[[rows[path] for path in paths]])
    assert (index.index.encode(kept) == index.encode(paths).codes).mean() > 0.9


def test_a_build_with_a_codec_keeps_features(tmp_path):
    folder = fill(tmp_path / "p", 20)
    build([folder], tmp_path / "none", features="none", bits=16)
    index, _ = build([folder], tmp_path / "index", codec=tmp_path / "none", bits=8)
    assert index.index.features_of(index.index.ids).shape == (20, 48)
    index, _ = build([folder], tmp_path / "i", codec=tmp_path / "index", bits=8, features="none")
    assert not index.index.has_features


def test_an_index_of_an_earlier_version_grows_without_features(tmp_path):
    """It records neither folders nor how features are kept, and has no hashes."""
    folder = fill(tmp_path / "p", 6)
    index, _ = build([folder], tmp_path / "index", features="none")
    options = dict(index.index.metadata["pictures"]["options"])
    del options["features"]
    pictures = {**index.index.metadata["pictures"], "options": options}
    del pictures["roots"]
    index.index.metadata = {"pictures": pictures}
    fill(folder, 2, 30)
    index, report = update([folder], tmp_path / "index")
    assert (report.added, report.removed, index.index.has_features) == (2, 0, False)
    assert [root.path for root in recorded_roots(index.index)] == [bytes(folder)]
    assert json.loads((tmp_path / "index/manifest.json").read_text())["version"] == 3


def test_a_codec_is_taken_at_another_length(tmp_path):
    folder = fill(tmp_path / "a", 90)
    first, _ = build(folder, tmp_path / "long", bits=32, recipe="default")
    network = Grid()
    index, report = build(folder, tmp_path / "short", network, bits=16, codec=tmp_path / "long")
    assert (index.index.M, report.images, network.seen) == (2, 90, 90)
    want = first.index.with_bits(16).codec
    assert to_files(index.index.codec) == to_files(want)
    assert str(tmp_path / "long").encode() not in (tmp_path / "short/manifest.json").read_bytes()
    # Built again with the same command, it is brought up to date.
    fill(folder, 2, start=90)
    again, report = build(folder, tmp_path / "short", bits=16, codec=tmp_path / "long")
    assert (len(again), report.added) == (92, 2)


def test_a_codec_of_another_network_is_refused(tmp_path):
    folder = fill(tmp_path / "a", 20)
    build(folder, tmp_path / "first")
    other = Grid()
    other.weights_hash = "1" * 32
    with pytest.raises(BackboneError, match="weights"):
        build(folder, tmp_path / "second", other, codec=tmp_path / "first")
    assert not working_directory(tmp_path / "second").exists()


def test_fidelity_builds_with_a_metric_of_its_own(tmp_path):
    folder = fill(tmp_path / "a", 40)
    index, _ = build(folder, tmp_path / "i", bits=16, objective="fidelity")
    assert index.index.metric == "cosine"
    assert ImageIndex.open(tmp_path / "i", backbone=Grid()).index.metric == "cosine"
    found = index.query([folder / "003.png"], 1)
    assert os.fsdecode(found[0].results[0].path).endswith("003.png")


def test_queries_rank_fidelity_codes_again_by_default_without_features(tmp_path):
    folder = fill(tmp_path / "a", 40)
    index, _ = build(folder, tmp_path / "i", bits=16, objective="fidelity", features="none")
    assert not index.index.has_features
    assert index.index.can_refine
    queries = sorted(folder.iterdir())[:3]
    default = index.query(queries, 9)
    assert default == index.query(queries, 9, refine=200)
    assert default != index.query(queries, 9, refine=0)
    x = np.random.default_rng(0).random((3, index.index.d), np.float32)
    assert index.query(vectors=x, k=9) == index.query(vectors=x, k=9, refine=200)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"objective": "fidelity"}, "objective"),
        ({"objective": "semantic"}, "objective"),
        ({"epochs": 3, "recipe": "paper"}, "recipe and epochs"),
        ({"train_size": 9, "view_size": 0}, "train_size and view_size"),
    ],
)
def test_options_of_the_training_with_a_codec_are_refused(tmp_path, options, names):
    """Nothing is trained, so they were ignored without a word."""
    folder = fill(tmp_path / "a", 20)
    build(folder, tmp_path / "first", bits=16)
    refused = f"^codec is given, so nothing is trained and {names} would have no effect; leave out"
    for name in ("second", "first"):
        with pytest.raises(InvalidInputError, match=refused):
            build(folder, tmp_path / name, codec=tmp_path / "first", **options)
        with pytest.raises(InvalidInputError, match=refused):
            update_index(folder, tmp_path / "first", codec=tmp_path / "first", **options)
    assert not (tmp_path / "second").exists()
    # What is not given is not in the way.
    options = {"seed": 3, "bits": 8, "epochs": None}
    index, _ = build(folder, tmp_path / "second", codec=tmp_path / "first", **options)
    assert index.index.M == 1


def test_a_single_image_that_cannot_be_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"words")
    only = r"a\.jpg cannot be read \(not an image\) and is the only image; expected images to train"
    with pytest.raises(DatasetError, match=only):
        build(tmp_path / "a.jpg", tmp_path / "index")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match="none of 2 images can be read, such as"):
        build([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path / "index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]


def test_files_of_other_kinds_are_counted(tmp_path):
    folder = fill(tmp_path / "p", 3)
    (folder / "a.psd").write_bytes(b"8BPS")
    (folder / "b.mp4").write_bytes(b"video")
    (folder / "c.txt").write_bytes(b"words")
    skipped = {bytes(folder / "a.psd"): "images of the format PSD are not read"}
    for path in (tmp_path / "index", tmp_path / "index", folder / "index", folder / "index"):
        _, report = build([folder], path)
        assert (report.other, report.skipped) == ({".mp4": 1, ".txt": 1}, skipped)
        assert from_csv((path / "skipped.csv").read_bytes()) == skipped
    shutil.rmtree(folder / "index")
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(
        DatasetError,
        match=r"in .*/p, 1 skipped, such as .*a\.psd \(images of the format PSD are not "
        r"read\), 2 files of other kinds \(1 \.mp4, 1 \.txt\);",
    ):
        build([folder], tmp_path / "other")


def test_a_resumed_build_reports_what_the_first_one_listed(tmp_path):
    folder = fill(tmp_path / "p", 40)
    (folder / "a.txt").write_bytes(b"words")
    (folder / "broken.png").symlink_to("nowhere")
    network = Grid()
    network.fails_after = 100
    (tmp_path / "index.building").mkdir()
    with pytest.raises(BackboneError, match="the network failed"):
        build([folder], tmp_path / "index", network, resume=True)
    (folder / "a.txt").unlink()
    (folder / "broken.png").unlink()
    _, report = build([folder], tmp_path / "index", resume=True)
    assert report.other == {".txt": 1}
    assert report.skipped == {bytes(folder / "broken.png"): "broken link"}


names = st.binary(min_size=1, max_size=12).map(lambda name: b"/" + name.replace(b"\0", b"x"))


@given(
    st.lists(st.builds(ImageFile, names, st.integers(0), st.integers()), max_size=4),
    st.dictionaries(names, st.text(max_size=9).map(lambda text: text.replace("\0", ""))),
    st.dictionaries(st.sampled_from(["", ".psd", ".ж", ".a b"]), st.integers(1)),
)
def test_a_plan_is_read_as_it_was_written(tmp_path_factory, files, skipped, other):
    folder = tmp_path_factory.mktemp("state")
    listing = Listing(skipped=skipped, other=Counter(other))
    state = BuildState(folder)
    for plan in (state.write_plan({"a": 1}, files, listing), state.read_plan({"a": 1})):
        assert [*plan.files] == plan.files[:] == files
        assert plan.files[1:-1] == files[1:-1]
        assert (plan.skipped, plan.other) == (skipped, other)
    shutil.rmtree(folder)


@pytest.mark.parametrize("n", [63, 64, 65, 128, 400])
@pytest.mark.parametrize("skipped", [{}, {b"/s": "is a folder"}])
def test_a_plan_is_read_in_blocks(tmp_path, monkeypatch, n, skipped):
    monkeypatch.setattr("hyperpq.images.build.plan._BLOCK", 1000)
    files = [ImageFile(b"/%d" % (7**row), row, -row) for row in range(n)]
    plan = BuildState(tmp_path).write_plan({}, files, Listing(skipped=skipped))
    assert ([*plan.files], plan.skipped) == (files, skipped)
    assert [plan.files[row] for row in range(n)[::-7]] == files[::-7]


def test_images_of_a_folder_are_removed_on_purpose(tmp_path):
    a, b = fill(tmp_path / "a", 3), fill(tmp_path / "ab", 3, 10)
    (b / "bad.png").write_bytes(b"words")
    index, _ = build([a, b], tmp_path / "index")
    with pytest.raises(InvalidInputError, match=r"/gone has no image in .*/index; expected"):
        index.remove([a, tmp_path / "gone"])
    assert len(index) == 6
    shutil.rmtree(b)
    assert index.remove([b, a / "000.png"]) == 4
    assert paths_of(index) == [str(a / "001.png"), str(a / "002.png")]
    reopened = ImageIndex.open(tmp_path / "index", backbone=Grid())
    assert paths_of(reopened) == paths_of(index)
    assert from_csv((tmp_path / "index/skipped.csv").read_bytes()) == {}
    assert reopened.remove(tmp_path) == 2
    assert len(reopened) == 0


class Recorded(SilentProgress):
    """Names of the phases in their order; what happens outside of any would be silent."""

    def __init__(self):
        super().__init__()
        self.names, self.is_open = [], False

    def _open(self, name, total, unit):
        assert not self.is_open, f"{name} begins in {self.names[-1]}"
        self.is_open = True
        self.names += [name] * (self.names[-1:] != [name])
        return super()._open(name, total, unit)

    def _close(self):
        self.is_open = False


def test_no_work_is_outside_of_a_phase(tmp_path, monkeypatch):
    """Minutes of a build and an update were silent: the imports, the listing and the training."""
    folder, progress = fill(tmp_path / "p", 200), Recorded()
    slow = {
        "hyperpq.images.build.pipeline": ["load_backbone", "_publish"],
        "hyperpq.images.build.listing": ["scan_roots"],
        "hyperpq.images.build.stages": ["new_index", "stream_groups"],
        "hyperpq.images.build.update": ["relearn_if_needed"],
        "hyperpq.images.updater": ["compare", "stream_groups"],
        "hyperpq.training.train": ["initialize_codec", "training_graph", "_holdout_check"],
        "hyperpq.training.loop": ["make_optimizers", "TrainingLoop._run_epoch"],
    }
    called = set()

    def watched(name, function):
        def call(*arguments, **options):
            called.add(name)
            # `relearn_if_needed` has phases of its own.
            assert progress.is_open or name == "relearn_if_needed", name
            return function(*arguments, **options)

        return call

    for module, names in slow.items():
        for name in names:
            *above, last = name.split(".")
            owner = (
                operator.attrgetter(*above)(import_module(module))
                if above
                else import_module(module)
            )
            monkeypatch.setattr(owner, last, watched(name, getattr(owner, last)))
    monkeypatch.setattr(
        "hyperpq.images.build.pipeline.load_backbone",
        watched("load_backbone", lambda *_, **__: Grid()),
    )
    build_index([folder], tmp_path / "index", device="cpu", epochs=1, progress=progress)
    fill(folder, 50, start=200)
    monkeypatch.setattr(ImageIndex, "backbone", property(lambda self: Grid()))
    _, report = update_index([folder], tmp_path / "index", device="cpu", progress=progress)
    assert report.relearned is not None
    assert called == {name for names in slow.values() for name in names}
    names = iter(progress.names)
    for name in ("load", "list", "features", "prepare", "train", "check", "encode", "save", "open"):
        assert name in names, name
    for name in ("list", "open", "compare", "load", "encode", "prepare", "train", "check"):
        assert name in names, name


def views_of_batches(keep):
    """Shapes of the views of each batch of the sample, and what notes them."""
    shapes = []

    def write(self, name, number, features):
        shapes.append(features.views.shape)
        keep(self, name, number, features)

    return shapes, write


@pytest.mark.parametrize(
    ("options", "n_views"),
    [({}, 2), ({"n_views": 3}, 3), ({"recipe": "paper"}, 4), ({"objective": "fidelity"}, 0)],
)
def test_number_of_views(tmp_path, monkeypatch, options, n_views):
    """The default of a recipe with a graph is less than the views that recipes have elsewhere."""
    shapes, write = views_of_batches(BuildState.write_features)
    monkeypatch.setattr(BuildState, "write_features", write)
    folder = fill(tmp_path / "p", 20)
    made, _ = build(folder, tmp_path / "index", view_size=12, epochs=0, **options)
    viewed = [shape for shape in shapes if shape[0]]
    assert [shape[:2] for shape in viewed] == ([(n_views, 12)] if n_views else [])
    # The number is recorded, and another one is refused.
    recorded = ImageMetadata.from_index(made.index.metadata).options["n_views"]
    assert recorded == BuildOptions(**options).n_views
    update_index(folder, tmp_path / "index", n_views=recorded)
    with pytest.raises(InvalidInputError, match=f"n-views is 9; .* was built with {recorded}"):
        update_index(folder, tmp_path / "index", n_views=9)


def test_views_of_an_index_that_does_not_record_their_number():
    stored = BuildOptions().to_stored()
    del stored["n_views"]
    assert BuildOptions.from_stored(stored).n_views == 4
    with pytest.raises(InvalidInputError, match="n_views"):
        BuildOptions(n_views=0)
