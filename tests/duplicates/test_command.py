"""`hyperpq duplicates` as it is typed, on real files."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest


def hyperpq(*args, cwd, env=None):
    """Run the command line in a new process."""
    return subprocess.run(
        [sys.executable, "-m", "hyperpq", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


def duplicates(folder, *args):
    return hyperpq("duplicates", "--sample", 2, *args, cwd=folder)


@pytest.fixture(scope="module")
def examined(collection, tmp_path_factory):
    """A copy of the collection with its work file; files are not to be changed."""
    folder = tmp_path_factory.mktemp("examined") / "set"
    shutil.copytree(collection, folder, copy_function=shutil.copy2)
    result = duplicates(folder)
    assert result.returncode == 0, result.stderr
    (folder / "table.txt").write_text(result.stdout)
    return folder


def test_the_table_says_what_is_proposed_and_how_sure_it_is(examined):
    text = (examined / "table.txt").read_text()
    assert "same image, 2 images\n" in text
    assert "similar shot, 2 images\n" in text
    assert "identical file" in text
    (found,) = [line for line in text.splitlines() if line.startswith("copies found")]
    assert "watermarked" in found
    assert "copies made of 2 images" in found
    assert "\nwrongly same" in text
    assert "4 groups with 4 copies that can go" in text


def test_json_and_csv_say_the_same(examined):
    result = duplicates(examined, "--json")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout)
    rows = [
        (str(number), group["level"], member["role"], member["path"])
        for number, group in enumerate(values["groups"], 1)
        for member in group["members"]
    ]
    assert duplicates(examined, "-o", "groups.csv", "-q").stdout == ""
    table = csv.DictReader(io.StringIO((examined / "groups.csv").read_text()))
    assert [(r["group"], r["level"], r["role"], r["path"]) for r in table] == rows
    assert values["images"] == 14
    assert {row[2] for row in rows} == {"keep", "copy", "shot"}
    assert values["calibration"]["near_same"]["of"] > 0


def test_levels(examined):
    for level, names in (("same", {"same image"}), ("similar", {"similar shot"})):
        result = duplicates(examined, "--json", "--level", level)
        assert {group["level"] for group in json.loads(result.stdout)["groups"]} == names


def test_links_and_their_undo(examined, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(examined, folder, copy_function=shutil.copy2)
    dry = duplicates(folder, "--link", "--dry-run", "-o", "groups.json")
    assert dry.returncode == 0, dry.stderr
    assert "1 files would be linked" in dry.stderr
    assert not os.path.samefile(folder / "photos/3.png", folder / "copies/3.jpg")
    result = duplicates(folder, "--link", "-o", "groups.json")
    assert "1 files linked" in result.stderr
    assert result.stderr.count("left as it is: its bytes are not those") == 3
    assert os.path.samefile(folder / "photos/3.png", folder / "copies/3.jpg")
    (undo,) = folder.glob("hyperpq-undo-*.jsonl")
    assert str(undo) in result.stderr
    back = hyperpq("duplicates", "--undo", undo, cwd=folder)
    assert (back.returncode, back.stdout) == (0, "")
    assert "1 files taken back" in back.stderr
    assert not os.path.samefile(folder / "photos/3.png", folder / "copies/3.jpg")


def test_another_work_file(collection, tmp_path):
    (tmp_path / "work").mkdir()
    work = tmp_path / "work" / "file"
    result = duplicates(collection, "--work", work, "--move-to", tmp_path / "gone", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "4 files would be moved" in result.stderr
    assert os.listdir(work.parent) == ["file"]
    assert not (collection / "hyperpq-index.duplicates").exists()


def test_copies_are_moved_only_when_asked(examined, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(examined, folder, copy_function=shutil.copy2)
    result = duplicates(folder, "--move-to", tmp_path / "gone", "--reference", folder / "photos")
    assert result.returncode == 0, result.stderr
    assert sorted(os.listdir(tmp_path / "gone")) == ["0.jpg", "1.png", "2.jpg", "3.jpg"]
    assert os.listdir(folder / "copies") == []
    assert len(os.listdir(folder / "photos")) == 10


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--link", "--move-to", "x"), 2, "--link and --move-to exclude each other"),
        (("--dry-run",), 2, "--dry-run is given without --link"),
        (("--open",), 2, "--open is given without --html"),
        (("--keep", "newest"), 2, "'newest' is not one of"),
        (("--reference", "missing"), 2, "missing is no folder"),
        (("--where", "colour == 'red'"), 2, "colour"),
        (("--undo", "missing"), 1, "missing: cannot read"),
        (("--undo", "photos/0.png"), 2, "is no list of steps"),
        (("--index", "missing"), 1, "missing"),
        (("-o", "missing/groups.csv"), 2, "there is no folder missing"),
        (("-o", "groups.txt2"), 2, "has none of the endings"),
        (("--move-to", "photos/0.png"), 2, "expected a folder"),
        (("--candidates", "0"), 2, "0 is not in the range"),
        (("--work", "missing/work"), 1, "missing/work cannot be used"),
        (("--work", "photos/0.png"), 1, "photos/0.png cannot be used"),
    ],
)
def test_wrong_input_is_one_line(examined, args, code, said):
    result = duplicates(examined, *args)
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in result.stderr


def test_an_index_of_vectors_is_refused(tmp_path):
    import numpy as np

    from hyperpq.index import HiHPQIndex

    index = HiHPQIndex(8, 4)
    index.train(np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32), epochs=0)
    index.save(tmp_path / "vectors")
    result = duplicates(tmp_path, "--index", "vectors")
    assert result.returncode == 2
    assert "is an index of vectors; near-duplicates are found among images" in result.stderr


def test_a_missing_package_is_named(examined, tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('hidden')")
    result = hyperpq("duplicates", cwd=examined, env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1
    assert "near-duplicates need cv2" in result.stderr
    assert "pip install 'hyperpq[duplicates]'" in result.stderr
