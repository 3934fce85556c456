"""`link`, `move` and `undo`: what is done with copies, each step so that no content is ever lost.

Before a file is touched, it and the image that is kept must be what was examined, by size, time and
content. Each step is written to a list first, by which `undo` takes it back.

`link` makes one file of several with the same bytes: a hard link replaces a copy in one step. Other
copies have bytes of their own and stay. `move` gives a copy a name in another folder of the same
file system; nothing is copied, and no name that is there is replaced.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hyperpq.datasets.content_hash import content_hash
from hyperpq.datasets.file_source import is_plain_file
from hyperpq.duplicates.groups import Group, Member
from hyperpq.errors import InvalidInputError, StoreError
from hyperpq.utils.files import fsync_folder, make_folder, os_errors, remove_quietly
from hyperpq.utils.json_text import path_text
from hyperpq.utils.locations import absolute

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
_COMPARED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Step:
    """What is done with one copy.

    Attributes
    ----------
    action : {"link", "move"}
        In what way.
    path : bytes
        The copy.
    target : bytes
        The file that it becomes a link to, or its new path.
    """

    action: str
    path: bytes
    target: bytes

    def to_json(self) -> str:
        """A line of the list."""
        names = {"path": path_text(self.path), "target": path_text(self.target)}
        return json.dumps({"action": self.action, **names}) + "\n"

    @classmethod
    def from_json(cls, line: str, source: Path) -> Step:
        """The inverse of `to_json`.

        Raises
        ------
        InvalidInputError
            If it is something else.
        """
        try:
            values: Any = json.loads(line)
            action, *names = (values[name] for name in ("action", "path", "target"))
            path, target = (name.encode("utf-8", "surrogateescape") for name in names)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            action, path, target = "", b"", b""
        if action not in ("link", "move") or not os.path.isabs(path) or not os.path.isabs(target):
            raise InvalidInputError(
                f"{source} is no list of steps; expected a file that hyperpq duplicates wrote with "
                "--link or --move-to."
            )
        return cls(action, path, target)


@dataclass
class Report:
    """What was done.

    Attributes
    ----------
    steps : list of Step
        What was done, or would be.
    kept : dict of bytes to str
        Path of each copy that was left as it is, and why.
    bytes : int
        Bytes of the files of the steps.
    undo : Path or None
        The list by which `undo` takes the steps back; None if there was none.
    """

    steps: list[Step] = field(default_factory=list)
    kept: dict[bytes, str] = field(default_factory=dict)
    bytes: int = 0
    undo: Path | None = None


def link(groups: Sequence[Group], undo_folder: Path, *, dry_run: bool = False) -> Report:
    """Make hard links of copies whose bytes are those of the image that is kept.

    Parameters
    ----------
    groups : sequence of Group
        What `find` returned; only groups of the same image count.
    undo_folder : Path
        Where the list for `undo` is written.
    dry_run : bool
        Whether nothing is changed; the report says what would be.

    Returns
    -------
    Report

    Raises
    ------
    StoreError
        If the system refuses a step; the steps before it are done and in the list.
    """
    report = Report()
    with _Steps(report, undo_folder, dry_run) as steps:
        for kept, copy in _proposed(groups):
            reason = _differs(kept, copy) or _cannot_link(kept, copy)
            if reason:
                report.kept[copy.path] = reason
                continue
            steps.do(Step("link", _absolute(copy), _absolute(kept)), copy.facts.size)
    return report


def move(
    groups: Sequence[Group], folder: Path, undo_folder: Path, *, dry_run: bool = False
) -> Report:
    """Move copies to a folder, below which they have the path that they had below theirs.

    Parameters
    ----------
    groups : sequence of Group
        What `find` returned; only groups of the same image count.
    folder : Path
        Where they go; it is made if it does not exist, on the file system of the copies.
    undo_folder, dry_run
        See `link`.

    Returns
    -------
    Report

    Raises
    ------
    InvalidInputError
        If the folder is a file.
    StoreError
        If the system refuses a step; the steps before it are done and in the list.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file; expected a folder to move copies to.")
    report, to = Report(), os.path.abspath(os.fsencode(folder))
    moved = list(_proposed(groups))
    paths = [os.path.dirname(_absolute(copy)) for _, copy in moved]
    base = os.path.commonpath(paths) if paths else b"/"
    taken: set[bytes] = set()
    with _Steps(report, undo_folder, dry_run) as steps:
        for kept, copy in moved:
            path = _absolute(copy)
            reason = _differs(kept, copy)
            if not reason and not _on_one_device(path, to):
                reason = f"{path_text(to)} is on another file system, so it would be copied"
            if reason:
                report.kept[copy.path] = reason
                continue
            target = _free(os.path.join(to, os.path.relpath(path, base)), taken)
            taken.add(target)
            steps.do(Step("move", path, target), copy.facts.size)
    return report


def undo(list_file: Path, *, dry_run: bool = False) -> Report:
    """Take back the steps of a list, the last one first.

    Parameters
    ----------
    list_file : Path
        What `link` or `move` wrote.
    dry_run : bool
        Whether nothing is changed.

    Returns
    -------
    Report
        ``kept`` are the steps that cannot be taken back, or were before.

    Raises
    ------
    InvalidInputError
        If the file is no such list; nothing was changed.
    StoreError
        If it cannot be read, or the system refuses a step.
    """
    with os_errors("read", list_file):
        lines = list_file.read_bytes().decode("utf-8", "replace").splitlines()
    report = Report()
    for step in reversed([Step.from_json(line, list_file) for line in lines]):
        reason = _cannot_undo(step)
        if reason:
            report.kept[step.path] = reason
            continue
        if not dry_run:
            _UNDO[step.action](step)
        report.steps.append(step)
    return report


class _Steps:
    """Writes each step to the list, durably, and then does it."""

    def __init__(self, report: Report, folder: Path, dry_run: bool) -> None:
        self._report, self._folder, self._dry_run = report, folder, dry_run
        self._file: int | None = None

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            os.close(self._file)

    def do(self, step: Step, size: int) -> None:
        if not self._dry_run:
            self._note(step)
            _DO[step.action](step)
        self._report.steps.append(step)
        self._report.bytes += size

    def _note(self, step: Step) -> None:
        if self._file is None:
            now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            name = f"hyperpq-undo-{now}-{secrets.token_hex(2)}.jsonl"
            path = Path(os.path.abspath(self._folder)) / name
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            with os_errors("write", path):
                self._file = os.open(path, flags, 0o666)
            self._report.undo = path
        assert self._report.undo is not None
        with os_errors("write", self._report.undo):
            os.write(self._file, step.to_json().encode())
            os.fsync(self._file)
        fsync_folder(self._report.undo.parent)


def _proposed(groups: Sequence[Group]) -> Iterator[tuple[Member, Member]]:
    """The images that are kept with each of their copies that can go."""
    for group in groups:
        for copy in group.proposed:
            yield group.kept, copy


def _absolute(member: Member) -> bytes:
    return os.path.abspath(member.path)


def _differs(kept: Member, copy: Member) -> str:
    """Why two files are not what was examined; empty if they are."""
    for member, name in ((kept, "the image that is kept"), (copy, "the file")):
        if not is_plain_file(absolute(member.path)):
            return f"{name} is in a tar shard or in object storage, which are never changed"
        try:
            status = os.lstat(member.path)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if not os.path.isfile(member.path) or os.path.islink(member.path):
            return f"{name} is a symbolic link or no regular file"
        facts = member.facts
        if (status.st_size, status.st_mtime_ns) != (facts.size, facts.mtime_ns):
            return f"{name} has changed since it was examined"
        if content_hash(member.path) != facts.content:
            return f"{name} has changed since it was examined"
    if os.path.samefile(kept.path, copy.path):
        return "it is a link to the image that is kept already"
    return ""


def _cannot_link(kept: Member, copy: Member) -> str:
    if not copy.identical or not _equal_bytes(kept.path, copy.path):
        return "its bytes are not those of the image that is kept; --move-to takes such copies"
    if os.stat(kept.path).st_dev != os.stat(copy.path).st_dev:
        return "it is on another file system than the image that is kept"
    return ""


def _equal_bytes(a: bytes, b: bytes) -> bool:
    with open(a, "rb") as one, open(b, "rb") as other:
        while True:
            block = one.read(_COMPARED_AT_ONCE)
            if block != other.read(_COMPARED_AT_ONCE):
                return False
            if not block:
                return True


def _on_one_device(path: bytes, folder: bytes) -> bool:
    """Whether a file is on the file system of a folder, or of where that would be made."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.stat(path).st_dev == os.stat(folder).st_dev


def _free(path: bytes, taken: set[bytes]) -> bytes:
    """A path that no file has: with a number before its ending if need be."""
    stem, ending = os.path.splitext(path)
    number, free = 1, path
    while free in taken or os.path.lexists(free):
        number += 1
        free = b"%s-%d%s" % (stem, number, ending)
    return free


def _link(step: Step) -> None:
    """Replace a copy by a hard link, in one step."""
    path = _path(step.path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os_errors("link", path):
            os.link(step.target, aside)
            os.replace(aside, path)
    finally:
        # Of two links to one file, `replace` leaves both.
        remove_quietly(aside)
    fsync_folder(path.parent)


def _move(step: Step) -> None:
    """Give a file another name, which no other file has."""
    path, target = _path(step.path), _path(step.target)
    make_folder(target.parent)
    with os_errors("move", path):
        try:
            # A link fails where there is a file, and a rename would replace it.
            os.link(path, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(target):
                raise StoreError(f"{target} exists now; the copy {path} was not moved.") from None
            os.rename(path, target)
        else:
            fsync_folder(target.parent)
            os.unlink(path)
    for folder in (target.parent, path.parent):
        fsync_folder(folder)


def _unlink_copy(step: Step) -> None:
    """Make a file of its own of a hard link."""
    path = _path(step.path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os_errors("copy", path):
            shutil.copy2(path, aside)
            handle = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(aside, path)
    except BaseException:
        remove_quietly(aside)
        raise
    fsync_folder(path.parent)


def _cannot_undo(step: Step) -> str:
    """Why a step cannot be taken back; empty if it can."""
    if step.action == "link":
        if not os.path.isfile(step.path) or not os.path.exists(step.target):
            return "it or the file that it is a link to is gone"
        if not os.path.samefile(step.path, step.target):
            return "it is a file of its own"
        return ""
    if not os.path.lexists(step.target):
        return f"{path_text(step.target)} is gone"
    if os.path.lexists(step.path):
        return "there is a file of this name"
    return ""


def _path(path: bytes) -> Path:
    return Path(os.fsdecode(path))


_DO: dict[str, Callable[[Step], None]] = {"link": _link, "move": _move}
_UNDO: dict[str, Callable[[Step], None]] = {
    "link": _unlink_copy,
    "move": lambda step: _move(Step("move", step.target, step.path)),
}
