"""What `build`, `add` and `remove` say of images that are gone, kept, removed or not read."""

from __future__ import annotations

import os
import shutil

import pytest
from click.testing import CliRunner

from hyperpq import ImageIndex
from hyperpq.cli.main import cli
from hyperpq.diagnostics import describe_index
from hyperpq.images.roots import change_roots
from hyperpq.index.path_map import Root


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


@pytest.fixture
def run(own, monkeypatch):
    """Run a command in `own`, in this process; returns its summary."""
    monkeypatch.chdir(own)

    def invoke(*args, code=0):
        done = CliRunner().invoke(cli, list(map(str, args)), prog_name="hyperpq")
        assert done.exit_code == code, done.output
        if code:
            return done.stderr
        lines = [line.split("  ", 1) for line in done.stdout.splitlines()]
        return {label: value.strip() for label, value in lines}

    return invoke


def test_update_and_forget(run, own):
    """Without naming a folder again; what is gone with its folder stays until it is forgotten."""
    images = sorted(path for path in (own / "photos").rglob("*") if path.is_file())
    for end, folder in (b"\0", "more"), (b"\0\0", "lost"):
        (own / folder).mkdir()
        for number, image in enumerate(images[:4]):
            # Another content: what is equal is recognised as moved.
            (own / folder / f"{number}{image.suffix}").write_bytes(image.read_bytes() + end)
    assert run("add", "more", "lost")["added"] == "8"
    assert run("update")["added"] == "0"
    first, second, *_ = sorted((own / "more").iterdir())
    first.rename(first.with_name(f"renamed{first.suffix}"))
    second.unlink()
    shutil.rmtree(own / "lost")
    done = run("update")
    assert (done["images"], done["added"], done["removed"]) == ("31", "0", "1")
    assert done["moved"] == "1, which were not encoded again"
    assert run("forget", "--missing")["removed"] == "4"
    again = (
        f"adds 1 again from {own / 'more'}; to prevent that, exclude them (a file .hyperpqignore"
    )
    for command, path in zip(("forget", "remove"), sorted((own / "more").iterdir()), strict=False):
        done = run(command, path)
        assert done["removed"] == "1" and done["next update"].startswith(again)
    species = images[0].parent
    n = len(list(species.iterdir()))
    done = run("remove", "--where", f"folder == '{species.name}'")
    assert done["removed"] == str(n)
    assert done["next update"].startswith(f"adds {n} again from {own / 'photos'}; to prevent")
    assert run("update")["added"] == str(2 + n)
    done = run("forget", "photos")
    assert (done["left"], done.get("next update")) == ("3", None)
    assert "/photos has no image in " in run("remove", "photos", code=2)
    assert "expected folders or images PATH, or --missing" in run("forget", code=2)


def test_features_are_kept_or_not(run, own):
    kept = describe_index("hyperpq-index")
    assert kept["kept features"] == f"int8, 1,284 bytes each, {24 * 1284:,} bytes in all"
    assert kept["learned from"].startswith("24 images; PCA and k-means")
    assert kept["objective"] == "semantic"
    assert kept["folder 1"] == str(own / "photos")
    before = (own / "hyperpq-index/codec.json").read_bytes()
    assert run("build", "photos", "--no-relearn").get("fitted again") is None
    assert run("update", "--relearn")["fitted again"] == "it was asked for (PCA and k-means)"
    assert (own / "hyperpq-index/manifest.json").exists()
    run("build", "photos", "--index", "bare", "--features", "none", "--exclude", "a*")
    bare = describe_index("bare")
    assert bare["kept features"] == "none"
    assert bare["folder 1"] == f"{own / 'photos'} (without a*)"
    assert "keeps no features" in run("update", "--index", "bare", "--relearn", code=2)
    assert before


def test_info_says_what_was_named(run, own, photos):
    image = own / "photos" / photos[0].relative_to(photos[0].parents[1])
    images = ImageIndex.open("hyperpq-index", device="cpu")
    named = Root(os.fsencode(image), os.fsencode(image), exclude=("*.gif",))
    change_roots(images.index, lambda roots: (*roots, named))
    shown = describe_index("hyperpq-index")
    assert shown["folder 1"] == str(own / "photos")
    assert shown["image 2"] == f"{image} (without *.gif)"
    image.unlink()  # the index still has it
    assert describe_index("hyperpq-index")["image 2"] == f"{image} (not there, without *.gif)"


def test_a_folder_that_is_a_file_now(run, own):
    """The message was that the file is no image, which says nothing of the folder."""
    shutil.copytree(own / "photos", own / "more", copy_function=shutil.copyfile)
    run("build", "more")
    shutil.rmtree(own / "more")
    (own / "more").write_text("words")
    assert describe_index("hyperpq-index")["folder 1"] == f"{own / 'more'} (a file now)"
    said = "is recorded as a folder, but is no folder now"
    refused = run("build", "more", "photos", code=1)
    assert f"/more {said}, and {own / 'hyperpq-index'} has 24 of its images, so nothing" in refused
    for command in ("build", "add"):
        assert said in run(command, "more", code=1)
    assert f"/more: {said}; its images are kept" in run("update")["skipped"]
    # A file that the index does not record is named as before.
    (own / "text").write_text("words")
    assert "text is not an image; expected folders of images" in run("build", "text", code=2)
    assert "text is not an image" in run("build", "text", "--index", "other", code=2)
    done = run("build", "more", "photos", "--allow-empty")
    assert (done["removed"], done["images"]) == ("24", "24")


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
    for command in ("build", "add"):
        done = facts(hyperpq(command, "photos", cwd=copy))
        assert done["not read"] == "2 files of other kinds (1 without an ending, 1 .mp4)"
        assert done["skipped"].startswith("6 (e.g. ")
    rows = (copy / "hyperpq-index/skipped.csv").read_text()
    assert all(name in rows for name in ("1.psd", "2.PSD", "a.ico", "b.ppm", "c.qoi", "d.svg"))
    (copy / "psd").mkdir()
    (copy / "psd/1.psd").write_bytes(b"8BPS")
    done = hyperpq("build", "psd", "--index", "new", cwd=copy)
    assert done.returncode == 1
    assert b"/psd, 1 skipped, such as " in done.stderr
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
    assert (done["added"], done["removed"]) == ("0", "0")
    assert done["moved"] == "1, which were not encoded again"
    assert facts(hyperpq("build", "photos", cwd=own))["added"] == "0"
