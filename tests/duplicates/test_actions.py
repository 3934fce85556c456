"""Links, moves and undo: no content is lost, whatever has happened to the files meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from hyperpq.datasets.content_hash import content_hash
from hyperpq.duplicates import ImageFacts, link, move, undo
from hyperpq.duplicates.actions import Step
from hyperpq.duplicates.compare import Comparison
from hyperpq.duplicates.groups import Group, Member
from hyperpq.errors import InvalidInputError, StoreError

SAME = Comparison(50, 1.0, 1.0)


def member(path: Path, **more) -> Member:
    status, name = path.stat(), os.fsencode(path)
    facts = ImageFacts(status.st_size, status.st_mtime_ns, content=content_hash(name))
    return Member(0, name, facts, **more)


@pytest.fixture
def files(tmp_path):
    """kept, same (equal bytes) and other in two folders below tmp_path/all."""
    for name, content in (("a/kept", b"one"), ("b/same", b"one"), ("b/other", b"another")):
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1.7e9, 1.7e9))
    return tmp_path / "all"


@pytest.fixture
def groups(files):
    copies = [
        member(files / "b/same", comparison=SAME, identical=True),
        member(files / "b/other", comparison=SAME),
    ]
    return [Group("same image", [member(files / "a/kept"), *copies])]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("hyperpq-undo")
    }


def test_only_equal_bytes_are_linked(files, groups, tmp_path):
    before = contents(files)
    report = link(groups, tmp_path)
    assert contents(files) == before
    assert os.path.samefile(files / "a/kept", files / "b/same")
    assert not os.path.samefile(files / "a/kept", files / "b/other")
    assert [step.path for step in report.steps] == [os.fsencode(files / "b/same")]
    assert list(report.kept) == [os.fsencode(files / "b/other")]
    assert report.bytes == 3
    assert sorted(os.listdir(files / "b")) == ["other", "same"]


def test_a_link_is_taken_back(files, groups, tmp_path):
    before, report = contents(files), link(groups, tmp_path)
    back = undo(report.undo)
    assert contents(files) == before
    assert not os.path.samefile(files / "a/kept", files / "b/same")
    assert (files / "b/same").stat().st_mtime == 1.7e9
    assert len(back.steps) == 1
    again = undo(report.undo)
    assert (again.steps, len(again.kept)) == ([], 1)


def test_links_are_not_linked_again(files, groups, tmp_path):
    link(groups, tmp_path)
    report = link(groups, tmp_path)
    assert report.steps == []
    assert "already" in report.kept[os.fsencode(files / "b/same")]
    assert report.undo is None


def test_copies_are_moved_and_come_back(files, groups, tmp_path):
    before = contents(files)
    report = move(groups, tmp_path / "gone", tmp_path)
    assert contents(files) == {"a/kept": b"one"}
    assert contents(tmp_path / "gone") == {"same": b"one", "other": b"another"}
    undo(report.undo)
    assert contents(files) == before


def test_no_file_is_replaced_by_a_move(files, groups, tmp_path):
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/same").write_bytes(b"older")
    move(groups, tmp_path / "gone", tmp_path)
    found = contents(tmp_path / "gone")
    assert found == {"same": b"older", "same-2": b"one", "other": b"another"}


def test_no_file_is_replaced_by_an_undo(files, groups, tmp_path):
    report = move(groups, tmp_path / "gone", tmp_path)
    (files / "b/same").write_bytes(b"newer")
    back = undo(report.undo)
    assert contents(files) == {"a/kept": b"one", "b/other": b"another", "b/same": b"newer"}
    assert list(back.kept) == [os.fsencode(files / "b/same")]


@pytest.mark.parametrize("action", ["link", "move"])
@pytest.mark.parametrize("name", ["a/kept", "b/same"])
@pytest.mark.parametrize("change", ["content", "touched", "gone", "symlink", "folder"])
def test_what_has_changed_is_left(files, groups, tmp_path, action, name, change):
    path = files / name
    if change == "content":
        # Of the same size and time.
        path.write_bytes(b"two")
        os.utime(path, (1.7e9, 1.7e9))
    elif change == "touched":
        os.utime(path, (1.8e9, 1.8e9))
    else:
        os.unlink(path)
    if change == "symlink":
        (tmp_path / "elsewhere").write_bytes(b"one")
        path.symlink_to(tmp_path / "elsewhere")
    elif change == "folder":
        path.mkdir()
    before = contents(files)
    if action == "link":
        report = link(groups, tmp_path)
    else:
        report = move(groups, tmp_path / "gone", tmp_path)
        before.pop("b/other") if name == "b/same" else None
    assert os.fsencode(files / "b/same") in report.kept
    assert contents(files) == before


@pytest.mark.parametrize("action", ["link", "move"])
def test_a_dry_run_changes_nothing(files, groups, tmp_path, action):
    before = contents(tmp_path)
    if action == "link":
        report = link(groups, tmp_path, dry_run=True)
    else:
        report = move(groups, tmp_path / "gone", tmp_path, dry_run=True)
    assert report.steps
    assert report.undo is None
    assert contents(tmp_path) == before
    assert not os.path.samefile(files / "a/kept", files / "b/same")


def test_shots_and_references_are_never_touched(files, tmp_path):
    reference = member(files / "b/same", comparison=SAME, identical=True, reference=True)
    shot = member(files / "b/other", comparison=SAME)
    groups = [
        Group("same image", [member(files / "a/kept"), reference]),
        Group("similar shot", [member(files / "a/kept"), shot]),
    ]
    before = contents(files)
    for report in (link(groups, tmp_path), move(groups, tmp_path / "gone", tmp_path)):
        assert (report.steps, report.kept) == ([], {})
    assert contents(files) == before


@pytest.mark.parametrize("action", ["link", "move"])
def test_a_failure_in_the_middle_loses_nothing(files, groups, tmp_path, monkeypatch, action):
    """The list already has the step that failed, and to take it back does no harm."""
    before = contents(files)

    def full(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace" if action == "link" else "unlink", full)
        with pytest.raises(StoreError, match="Input/output error"):
            if action == "link":
                link(groups, tmp_path)
            else:
                move(groups, tmp_path / "gone", tmp_path)
    found = contents(tmp_path)
    assert set(before.values()) <= set(found.values())
    assert contents(files).items() >= before.items()
    (listed,) = tmp_path.glob("hyperpq-undo-*.jsonl")
    undo(listed)
    assert contents(files).items() >= before.items()


def test_without_hard_links_files_are_renamed(files, groups, tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    move(groups, tmp_path / "gone", tmp_path)
    assert contents(tmp_path / "gone") == {"same": b"one", "other": b"another"}


def test_another_file_system_is_refused(files, groups, monkeypatch, tmp_path):
    from hyperpq.duplicates import actions

    monkeypatch.setattr(actions, "_on_one_device", lambda path, folder: False)
    before, report = contents(files), move(groups, tmp_path / "gone", tmp_path)
    assert all("another file system" in reason for reason in report.kept.values())
    assert contents(files) == before


def test_names_that_are_not_utf8(files, tmp_path):
    name = os.fsdecode(b"b/\xff\n")
    shutil.copy2(files / "b/same", files / name)
    copy = member(files / name, comparison=SAME, identical=True)
    report = move(
        [Group("same image", [member(files / "a/kept"), copy])], tmp_path / "gone", tmp_path
    )
    assert os.listdir(os.fsencode(tmp_path / "gone")) == [b"\xff\n"]
    undo(report.undo)
    assert os.path.exists(files / name)


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[]",
        '{"action": "remove", "path": "/a", "target": "/b"}',
        '{"action": "move", "path": "a", "target": "/b"}',
        '{"action": "move", "path": 3, "target": "/b"}',
        "[" * 100_000,
    ],
)
def test_a_list_of_something_else_is_refused_as_a_whole(files, tmp_path, line):
    good = Step("move", os.fsencode(tmp_path / "x"), os.fsencode(files / "b/same"))
    (tmp_path / "list").write_text(good.to_json() + line + "\n")
    before = contents(files)
    with pytest.raises(InvalidInputError, match="no list of steps"):
        undo(tmp_path / "list")
    assert contents(files) == before


def test_a_file_is_no_folder_to_move_to(files, groups, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="expected a folder"):
        move(groups, tmp_path / "file", tmp_path)
