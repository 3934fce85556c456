"""Listing of image folders: which files may be images, each real file once.

Paths are bytes, because a file name on Linux is bytes in any encoding.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from hyperpq.datasets.ignore import IGNORE_FILE, IgnorePatterns, IgnoreRules
from hyperpq.datasets.image_files import is_hidden, may_be_image, unread_format
from hyperpq.datasets.listing import ImageFile, Listing, RootOptions
from hyperpq.errors import DatasetError, InvalidInputError

# What the system answers where a file is gone; after any other error it may still be there.
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR))
_MAX_SUFFIX = 12

OnSkip = Callable[[bytes, str], None]


def list_images(
    roots: Sequence[str | bytes | Path],
    *,
    include_hidden: bool = False,
    exclude: Sequence[str] = (),
    on_skip: OnSkip | None = None,
) -> list[ImageFile]:
    """List every file below the roots that may be an image.

    Parameters
    ----------
    roots, include_hidden, exclude
        See `scan_roots`.
    on_skip : callable, optional
        Called with the path and the reason for each entry that cannot be examined.

    Returns
    -------
    list of ImageFile
        See `scan_roots`.

    Raises
    ------
    DatasetError, InvalidInputError
        See `scan_roots`.
    """
    listing = scan_roots(roots, include_hidden=include_hidden, exclude=exclude)
    if on_skip is not None:
        for path, reason in listing.skipped.items():
            on_skip(path, reason)
    return listing.files


def scan_roots(
    roots: Sequence[str | bytes | Path],
    *,
    include_hidden: bool = False,
    exclude: Sequence[str] = (),
    leave_out: Sequence[str | bytes | Path] = (),
    is_left_out: Callable[[bytes], bool] | None = None,
    allow_missing: bool = False,
    options: Mapping[bytes, RootOptions] | None = None,
    on_found: Callable[[int], None] | None = None,
) -> Listing:
    """List every file below the roots that may be an image, and say what could not be examined.

    Parameters
    ----------
    roots : sequence of paths
        Folders, or single files, which are always listed.
    include_hidden, exclude
        See `RootOptions`.
    leave_out : sequence of paths
        Folders that are not looked into, by whatever name or link they are reached.
    is_left_out : callable, optional
        Called with the path of each folder below a root; says whether it is not looked into.
    allow_missing : bool
        Whether a root that does not exist counts as one without images; else it is an error.
    options : mapping of bytes to RootOptions, optional
        Absolute paths of roots that have other options than ``include_hidden`` and ``exclude``.
    on_found : callable, optional
        Called with the number of images that have been found in each folder.

    Returns
    -------
    Listing
        A file with a known image extension is always listed; any other file is listed if its
        first bytes are those of an image. Broken links, unreadable folders, pipes, sockets and
        devices are skipped.

    Raises
    ------
    DatasetError
        If a root is missing or unreadable, an ignore file is unreadable, or a root is on another
        device after it was listed, as when a disk is unmounted.
    InvalidInputError
        If a pattern is not valid.

    Notes
    -----
    Links to files and folders are followed after all real folders have been listed. Each real file
    appears once, under its real name if that is below a root; loops of links are detected.
    """
    paths = [os.path.abspath(os.fsencode(root)) for root in roots]
    default = RootOptions(include_hidden, tuple(exclude))
    chosen = {path: (options or {}).get(path, default) for path in paths}
    patterns = {path: _patterns(chosen[path].exclude) for path in paths}
    hidden = {path for path in paths if chosen[path].include_hidden}
    return _Run(hidden, leave_out, is_left_out, allow_missing, on_found).scan(patterns)


def missing_root(path: bytes) -> DatasetError:
    """The error for a root that does not exist."""
    return DatasetError(f"{os.fsdecode(path)} does not exist; give an existing folder of images.")


def root_fault(path: bytes) -> str | None:
    """Why a root cannot be listed, such as an error of its disk; None if it can, or is gone."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            # A disk that is mounted when it is first used is mounted now.
            os.scandir(path).close()
    except OSError as error:
        return None if error.errno in _GONE else f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
        return None
    return "is neither a file nor a folder"


def _patterns(exclude: Sequence[str]) -> IgnorePatterns:
    patterns = IgnorePatterns.from_lines(map(os.fsencode, exclude))
    if patterns.invalid:
        raise InvalidInputError(
            f"exclude has {os.fsdecode(patterns.invalid[0])!r}, which matches nothing; expected "
            "patterns in the syntax of .gitignore."
        )
    return patterns


class _Run:
    """The state of one listing: the entries seen so far and the links still to follow."""

    def __init__(
        self,
        with_hidden: Collection[bytes],
        leave_out: Iterable[str | bytes | Path],
        is_left_out: Callable[[bytes], bool] | None,
        allow_missing: bool,
        on_found: Callable[[int], None] | None,
    ) -> None:
        # Roots whose hidden files are listed.
        self.with_hidden = with_hidden
        self.on_found = on_found
        self.allow_missing = allow_missing
        self.found = Listing()
        # Device and inode of files and folders, with the path where each was first seen.
        self.seen: dict[tuple[int, int], bytes] = {}
        self.links: list[tuple[bytes, bytes, IgnoreRules]] = []
        self.is_left_out = is_left_out
        self.left_out = {_identity(status) for status in map(_status, leave_out) if status}
        # Files and folders of other roots that a root has, too, by links.
        self.shared: defaultdict[bytes, set[bytes]] = defaultdict(set)

    def scan(self, roots: Mapping[bytes, IgnorePatterns]) -> Listing:
        """List the real folders of all roots, then the targets of links, round by round.

        Each root has the patterns of what is left out.
        """
        found, identities = self.found, {}
        # Parents before children, so that the rules of the outermost root apply.
        for path in sorted(roots):
            status = self._root(path)
            if status is None:
                continue
            identities[path] = _identity(status)
            if stat.S_ISDIR(status.st_mode):
                self._walk(path, path, status, IgnoreRules.of_root(path, roots[path]))
            else:
                self._add(path, path, status)
        while self.links:
            links, self.links = sorted(self.links, key=lambda link: link[0]), []
            for path, root, rules in links:
                self._follow(path, root, rules)
        found.files.sort(key=lambda file: file.path)
        for path, (device, _) in identities.items():
            # The inode says less: some file systems number a file anew when it is looked up again.
            status = _status(path)
            if status is None or status.st_dev != device:
                raise DatasetError(
                    f"{os.fsdecode(path)} is another one than when its listing began, as after a "
                    "disk was unmounted; run the command again."
                )
        for root in sorted(roots):
            other_name = self.seen.get(identities.get(root, (-1, -1)), root)
            if not any(map(self._has_images, (root, other_name, *self.shared[root]))):
                found.empty.append(root)
        return found

    def _root(self, path: bytes) -> os.stat_result | None:
        """Status of a root; None if it does not exist and that is allowed."""
        if fault := root_fault(path):
            raise DatasetError(f"{os.fsdecode(path)} {fault}; give a readable folder of images.")
        status = _status(path)
        if status is None and not self.allow_missing:
            raise missing_root(path)
        return status

    def _has_images(self, root: bytes) -> bool:
        """Whether an image at or below ``root`` was listed."""
        for prefix in (root, _with_slash(root)):
            at = bisect_left(self.found.files, prefix, key=lambda file: file.path)
            paths = [file.path for file in self.found.files[at : at + 1]]
            if any(path == root or path.startswith(_with_slash(root)) for path in paths):
                return True
        return False

    def _walk(self, root: bytes, start: bytes, status: os.stat_result, rules: IgnoreRules) -> None:
        """List a folder and all real folders below it; links are kept for later."""
        waiting = [(start, status, rules)]
        while waiting:
            folder, status, rules = waiting.pop()
            if _identity(status) in self.left_out or not self._is_new(root, folder, status):
                continue
            if self.is_left_out is not None and folder != root and self.is_left_out(folder):
                continue
            entries, before = self._entries(folder), len(self.found.files)
            if any(entry.name == IGNORE_FILE for entry in entries):
                rules = rules.within(folder)
            for entry in entries:
                if root not in self.with_hidden and is_hidden(entry.name):
                    continue
                try:
                    if entry.is_symlink():
                        self.links.append((entry.path, root, rules))
                        continue
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    self._skip(entry.path, error)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if not rules.ignore(entry.path, is_folder=True):
                        waiting.append((entry.path, status, rules))
                elif not rules.ignore(entry.path, is_folder=False):
                    self._consider(root, entry.path, status)
            if self.on_found is not None:
                self.on_found(len(self.found.files) - before)

    def _follow(self, path: bytes, root: bytes, rules: IgnoreRules) -> None:
        """List the target of a link."""
        try:
            status = os.stat(path)
        except OSError as error:
            if rules.ignore(path, is_folder=False):
                return
            self._skip(path, error)
            if error.errno in _GONE:
                self.found.skipped[path] = "broken link"
                # It may lead to a file or folder of a disk that is not mounted.
                self.found.unknown.add(path)
            return
        is_folder = stat.S_ISDIR(status.st_mode)
        if rules.ignore(path, is_folder):
            return
        if is_folder:
            self._walk(root, path, status, rules)
        else:
            self._consider(root, path, status)

    def _entries(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        """The entries of a folder, sorted by name; none, after a report, if it is unreadable."""
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._skip(folder, error)
            return []

    def _consider(self, root: bytes, path: bytes, status: os.stat_result) -> None:
        """Add a file if it may be an image."""
        if not stat.S_ISREG(status.st_mode):
            self.found.skipped[path] = "not a regular file"
            return
        try:
            is_listed = may_be_image(path)
        except OSError as error:
            self._skip(path, error)
            return
        if is_listed:
            self._add(root, path, status)
        elif kind := unread_format(path):
            self.found.skipped[path] = f"images of the format {kind} are not read"
        elif os.path.basename(path) != IGNORE_FILE:
            ending = os.path.splitext(path)[1].lower()
            ending = ending if len(ending) <= _MAX_SUFFIX else b""
            self.found.other[ending.decode("utf-8", "backslashreplace")] += 1

    def _add(self, root: bytes, path: bytes, status: os.stat_result) -> None:
        if self._is_new(root, path, status):
            self.found.files.append(ImageFile(path, status.st_size, status.st_mtime_ns))

    def _is_new(self, root: bytes, path: bytes, status: os.stat_result) -> bool:
        """Record a file or folder; False if it was recorded before."""
        first = self.seen.setdefault(_identity(status), path)
        if first is path:
            return True
        if path != root and not first.startswith(_with_slash(root)) and first != root:
            self.shared[root].add(first)
        return False

    def _skip(self, path: bytes, error: OSError) -> None:
        """Report an entry after an error of the system."""
        self.found.skipped[path] = (error.strerror or "cannot be read").lower()
        if error.errno not in _GONE:
            self.found.unknown.add(path)


def _status(path: str | bytes | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _with_slash(folder: bytes) -> bytes:
    return folder if folder.endswith(b"/") else folder + b"/"
