"""What is found, what is not, and that it does not depend on threads or on an interruption."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from hyperpq.duplicates import Settings, calibrate, find
from hyperpq.duplicates.calibration import Calibration
from hyperpq.duplicates.work_file import WorkFile
from hyperpq.errors import IndexLockedError, InvalidInputError, StoreError
from hyperpq.images import ImageIndex

SETTINGS = Settings(sample=4, threads=1)
QUICK = Settings(sample=2)


def names(group) -> list[str]:
    """The members of a group as folder/name."""
    return ["/".join(os.fsdecode(m.path).split("/")[-2:]) for m in group.members]


def opened(folder):
    return ImageIndex.open(folder / "hyperpq-index", device="cpu", read_only=True)


def by_level(found, level):
    return sorted(names(group) for group in found.groups if group.level == level)


def test_copies_are_the_same_image_and_a_shot_is_not(found):
    assert by_level(found, "same image") == [
        # As large as each other: the older, or the first by path.
        ["copies/3.jpg", "photos/3.png"],
        ["photos/0.png", "copies/0.jpg"],
        ["photos/1.png", "copies/1.png"],
        ["photos/2.png", "copies/2.jpg"],
    ]
    shots = [set(group) for group in by_level(found, "similar shot")]
    assert {"photos/shot-a.png", "photos/shot-b.png"} in shots


def test_it_is_said_what_a_copy_is(found):
    members = {names(group)[1]: group.members[1] for group in found.groups}
    assert members["copies/2.jpg"].comparison.mirrored
    assert not members["copies/1.png"].comparison.mirrored
    assert members["photos/3.png"].relation == "identical file"
    assert members["copies/0.jpg"].facts.width == 150
    assert members["copies/0.jpg"].relation.endswith("% agree")


def test_a_shot_is_never_proposed(found):
    for group in found.groups:
        assert bool(group.proposed) == (group.level == "same image")


def test_the_calibration_says_what_it_measured(found):
    c = found.calibration
    assert c.sample == 4
    assert set(c.recall.values()) <= {0, 0.25, 0.5, 0.75, 1}
    assert np.mean(list(c.recall.values())) > 0.8
    assert (c.shots_same.of, c.near_same.count) == (8, 0)
    assert Calibration.from_dict(json.loads(json.dumps(c.to_dict()))) == c


def test_threads_change_nothing(collection, found):
    assert find(opened(collection), Settings(sample=4, threads=3)) == found


def test_a_run_goes_on_where_it_was(collection, found, tmp_path, monkeypatch):
    from hyperpq.duplicates import examine, verify

    work = tmp_path / "work"
    calibrate(opened(collection), SETTINGS, work=work)
    monkeypatch.setattr(examine, "perceptual_hash", None)
    compared, real = [], verify.compare
    monkeypatch.setattr(verify, "compare", lambda *pair: compared.append(1) or real(*pair))
    assert find(opened(collection), SETTINGS, work=work) == found
    assert 0 < len(compared) <= found.compared
    compared.clear()
    again = find(opened(collection), Settings(keep="path", sample=4), work=work)
    assert len(again.groups) == len(found.groups)
    assert not compared


def test_a_changed_file_is_read_again(copy, found):
    work = copy / "work"
    find(opened(copy), QUICK, work=work)
    shutil.copyfile(copy / "photos" / "5.png", copy / "copies" / "3.jpg")
    groups = by_level(find(opened(copy), QUICK, work=work), "same image")
    assert ["copies/3.jpg", "photos/3.png"] not in groups
    # By its hash: its code is still that of the image that it was.
    assert ["copies/3.jpg", "photos/5.png"] in groups or ["photos/5.png", "copies/3.jpg"] in groups


def test_what_cannot_be_read_is_skipped(copy):
    (copy / "photos" / "4.png").write_bytes(b"no image")
    os.unlink(copy / "photos" / "5.png")
    found = find(opened(copy), QUICK)
    assert {os.path.basename(path): reason for path, reason in found.skipped.items()} == {
        b"4.png": "not an image",
        b"5.png": "no such file",
    }


@pytest.mark.parametrize(("keep", "first"), [("largest", "photos/0.png"), ("path", "copies/0.jpg")])
def test_the_rule_says_which_is_kept(collection, work, keep, first):
    found = find(opened(collection), Settings(keep=keep, sample=4), work=work)
    assert first in [names(group)[0] for group in found.groups]


def test_the_oldest_is_kept(copy):
    os.utime(copy / "copies" / "0.jpg", (1e9, 1e9))
    found = find(opened(copy), Settings(keep="oldest", sample=2))
    assert ["copies/0.jpg", "photos/0.png"] in by_level(found, "same image")


def test_images_of_a_reference_folder_are_kept(collection, work):
    settings = Settings(reference=[collection / "copies"], sample=4)
    found = find(opened(collection), settings, work=work)
    for group in found.groups:
        if group.level == "same image":
            assert names(group)[0].startswith("copies/")
            assert all(b"/copies/" not in member.path for member in group.proposed)


def test_pairs_within_a_folder_are_ignored(collection, work):
    settings = Settings(ignore_within_folder=True, sample=4)
    found = find(opened(collection), settings, work=work)
    assert len(by_level(found, "same image")) == 4
    assert not any("photos/shot-a.png" in group for group in by_level(found, "similar shot"))


def test_a_condition_limits_what_is_looked_at(collection):
    found = find(opened(collection), Settings(where="folder == 'photos'", sample=2))
    assert found.images == 10
    assert by_level(found, "same image") == []


def test_without_kept_features(collection, tmp_path, found):
    from hyperpq.images import build_index

    roots = [collection / "photos", collection / "copies"]
    build_index(roots, tmp_path / "hyperpq-index", device="cpu", epochs=0, features="none")
    other = find(opened(tmp_path), SETTINGS)
    assert other.calibration.gate is None
    assert by_level(other, "same image") == by_level(found, "same image")


@pytest.mark.parametrize("number", [0, 1])
def test_few_images(collection, tmp_path, number):
    from hyperpq.images import build_index

    for name in ("4.png", "6.png")[:number] or ("4.png",):
        shutil.copyfile(collection / "photos" / name, tmp_path / name)
    build_index(tmp_path, tmp_path / "hyperpq-index", device="cpu", epochs=0)
    if not number:
        os.unlink(tmp_path / "4.png")
    found = find(opened(tmp_path), SETTINGS)
    assert (found.groups, found.images, found.calibration.sample) == ([], number, number)


def test_a_work_file_of_something_else_is_an_error(collection, tmp_path):
    (tmp_path / "work").write_bytes(b"something else" * 100)
    with pytest.raises(StoreError, match=r"work cannot be used .* delete it"):
        find(opened(collection), SETTINGS, work=tmp_path / "work")


def test_a_work_file_is_used_by_one_process(collection, tmp_path):
    with WorkFile(tmp_path / "work"), pytest.raises(IndexLockedError, match="another process"):
        find(opened(collection), SETTINGS, work=tmp_path / "work")


def test_no_public_name_is_that_of_a_module():
    """The module would take its place once it is imported."""
    import pkgutil

    import hyperpq.duplicates as package

    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert modules.isdisjoint(package.__all__)


def test_wrong_settings(tmp_path):
    (tmp_path / "file").touch()
    for wrong, said in (
        ({"keep": "newest"}, "keep is 'newest'"),
        ({"k": 0}, "k is 0"),
        ({"sample": 1}, "sample is 1"),
        ({"reference": [tmp_path / "file"]}, "is no folder"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            Settings(**wrong)
