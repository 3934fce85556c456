"""What `build`, `add` and `remove` say of images that are gone, kept, removed or not read."""

from __future__ import annotations

import os
import shutil

import pytest

from hyperpq import ImageIndex


def facts(done):
    """The summary of a command as a dict."""
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    return {label: value.strip() for label, value in (line.split("  ", 1) for line in lines)}


@pytest.fixture
def own(hyperpq, copy, place):
    """A copy of `place` with an index of the images in it."""
    facts(hyperpq("remove", place / "photos", cwd=copy))
    facts(hyperpq("build", "photos", cwd=copy))
    return copy


def test_a_folder_that_is_gone_is_removed_only_if_that_is_meant(hyperpq, own):
    """As a disk that is not mounted."""
    shutil.copytree(own / "photos", own / "more")
    facts(hyperpq("build", "photos", "more", cwd=own))
    shutil.rmtree(own / "more")
    refused = hyperpq("build", "photos", "more", cwd=own)
    assert (refused.returncode, refused.stdout) == (1, b"")
    (line,) = refused.stderr.decode().splitlines()
    assert "/more does not exist, and " in line
    assert "has 24 of its images, so nothing was changed" in line
    (own / "more").mkdir()
    refused = hyperpq("build", "photos", "more", cwd=own)
    assert b"/more has no image, and " in refused.stderr
    assert b"repeat the command with --allow-empty" in refused.stderr
    done = facts(hyperpq("build", "photos", "more", "--allow-empty", cwd=own))
    assert (done["images"], done["removed"]) == ("24", "24")


def test_images_are_removed_on_purpose(hyperpq, own):
    """Also those of a folder that was not named again and exists no more."""
    shutil.copytree(own / "photos", own / "more")
    facts(hyperpq("build", "photos", "more", cwd=own))
    shutil.rmtree(own / "more")
    assert facts(hyperpq("remove", "more", cwd=own)) == {"removed": "24", "left": "24"}
    image = next(path for path in (own / "photos").rglob("*") if path.is_file())
    assert facts(hyperpq("remove", image, cwd=own))["removed"] == "1"
    assert image.exists()
    assert facts(hyperpq("remove", "--where", "width > 0", cwd=own))["left"] == "0"
    assert len(ImageIndex.open(own / "hyperpq-index", device="cpu")) == 0
    assert facts(hyperpq("build", "photos", cwd=own))["images"] == "24"


def test_what_remove_cannot_do_is_one_line(hyperpq, own):
    for arguments, code, words in [
        (("nowhere",), 2, "/nowhere has no image in "),
        (("photos", "nowhere"), 2, "/nowhere has no image in "),
        ((), 2, "expected either folders DIR or --where CONDITION"),
        (("photos", "--where", "width > 0"), 2, "expected either folders DIR or --where"),
        (("--where", "wide > 0"), 2, "wide"),
        (("photos", "--index", "none"), 1, "none"),
    ]:
        done = hyperpq("remove", *arguments, cwd=own)
        assert done.returncode == code
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("hyperpq: error: ")
        assert words in line
    assert len(ImageIndex.open(own / "hyperpq-index", device="cpu")) == 24


def test_files_of_other_kinds_are_named(hyperpq, copy):
    """Someone with a folder of PSD files must not believe that they are indexed."""
    for name in ("1.psd", "2.PSD", "a.ico", "b.ppm", "c.qoi", "d.svg", "e.mp4", "readme"):
        (copy / "photos" / name).write_bytes(b"8BPS or anything else")
    said = "8 files of other kinds (2 .psd, 1 without an ending, 1 .ico, 1 .mp4, 1 .ppm, 2 more)"
    assert facts(hyperpq("build", "photos", cwd=copy))["not read"] == said
    assert facts(hyperpq("add", "photos", cwd=copy))["not read"] == said
    (copy / "psd").mkdir()
    (copy / "psd/1.psd").write_bytes(b"8BPS")
    done = hyperpq("build", "psd", "--index", "new", cwd=copy)
    assert done.returncode == 1
    assert b"/psd, 1 file of another kind (1 .psd); expected JPEG" in done.stderr
    assert not (copy / "new").exists()


def test_options_of_the_training_with_a_codec_are_refused(hyperpq, copy):
    codec = ("--codec", "hyperpq-index", "--index", "new")
    for option, value in {"--objective": "fidelity", "--epochs": "3", "--train-size": "9"}.items():
        done = hyperpq("build", "photos", *codec, option, value, cwd=copy)
        assert done.returncode == 2
        assert f" --codec is given, so nothing is trained and {option} would have no effect" in (
            done.stderr.decode()
        )
    assert not (copy / "new").exists()
    facts(hyperpq("build", "photos", *codec, "--bits", "32", "--metric", "chord", cwd=copy))


def test_an_absurd_time_is_no_traceback(hyperpq, own):
    image = sorted(path for path in (own / "photos").rglob("*") if path.is_file())[0]
    os.utime(image, (10_413_792_000, 10_413_792_000))  # 2300-01-01
    done = facts(hyperpq("build", "photos", cwd=own))
    assert (done["added"], done["removed"]) == ("1", "1")
    assert facts(hyperpq("build", "photos", cwd=own))["added"] == "0"
