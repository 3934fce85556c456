"""Listing of image folders: which files may be images, each real file once.

Paths are bytes, because a file name on Linux is bytes in any encoding.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpq.datasets.decode import RAW_EXTENSIONS, SNIFF_BYTES, sniff
from hyperpq.errors import DatasetError, InvalidInputError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = b".hyperpqignore"
IMAGE_EXTENSIONS = RAW_EXTENSIONS | frozenset(
    b".jpg .jpeg .jpe .jfif .png .apng .webp .gif .bmp .dib .tif .tiff .heic .heif .hif "
    b".avif".split()
)
# Names that operating systems and their tools create beside images; compared in lower case.
_SYSTEM_NAMES = frozenset(
    b"@eadir|@recycle|@tmp|#recycle|#snapshot|$recycle.bin|recycler|system volume information|"
    b"lost+found|__macosx|thumbs.db|ehthumbs.db|desktop.ini".split(b"|")
)

OnSkip = Callable[[bytes, str], None]


@dataclass(frozen=True)
class ImageFile:
    """A file that may be an image.

    Parameters
    ----------
    path : bytes
        Absolute, with symbolic links left as they are.
    size : int
        Bytes.
    mtime_ns : int
        Time of the last change, nanoseconds since 1970.
    """

    path: bytes
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class _Rules:
    """Ignore patterns that apply in a folder, each with the folder that it is relative to."""

    specs: tuple[tuple[bytes, GitIgnoreSpec], ...] = ()

    def ignore(self, path: bytes, is_folder: bool) -> bool:
        """Whether the last pattern that matches ``path`` excludes it."""
        for base, spec in self.specs:
            relative = os.fsdecode(path[len(base) :]) + ("/" if is_folder else "")
            verdict = spec.check_file(relative).include
            if verdict is not None:
                return verdict
        return False

    def within(self, folder: bytes) -> _Rules:
        """The rules inside ``folder``: its own ignore file takes precedence over those above it."""
        name = os.path.join(folder, IGNORE_FILE)
        if not os.path.isfile(name):
            return self
        try:
            with open(name, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError as error:
            # To continue would list files that the user asked to exclude.
            raise DatasetError(
                f"{os.fsdecode(name)} cannot be read ({error.strerror}); "
                "make it readable or remove it."
            ) from error
        own = (_with_slash(folder), _compile(lines, os.fsdecode(name)))
        # The patterns of the caller (always first) keep precedence, as in git.
        return _Rules((*self.specs[:1], own, *self.specs[1:]))


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
    roots : sequence of paths
        Folders, or single files, which are always listed.
    include_hidden : bool
        Whether to list names that begin with a dot and names that operating systems create
        (``Thumbs.db``, ``@eaDir``, ``$RECYCLE.BIN``, ``lost+found``, ...).
    exclude : sequence of str
        Patterns in the syntax of .gitignore, relative to each root. They take precedence over
        those in ``.hyperpqignore`` files, which any folder may contain.
    on_skip : callable, optional
        Called with the path and the reason for each entry that cannot be examined: broken links,
        unreadable folders, pipes, sockets and devices.

    Returns
    -------
    list of ImageFile
        Sorted by path. A file with a known image extension is always listed; any other file is
        listed if its first bytes are those of an image.

    Raises
    ------
    DatasetError
        If a root is missing or unreadable, or an ignore file is unreadable.
    InvalidInputError
        If a pattern is not valid.

    Notes
    -----
    Links to files and folders are followed after all real folders have been listed. Each real file
    appears once, under its real name if that is below a root; loops of links are detected.
    """
    spec = _compile(exclude, "exclude")
    return _Listing(include_hidden, on_skip or (lambda path, reason: None)).run(roots, spec)


class _Listing:
    """The state of one listing: the entries seen so far and the links still to follow."""

    def __init__(self, include_hidden: bool, on_skip: OnSkip) -> None:
        self.include_hidden = include_hidden
        self.on_skip = on_skip
        self.files: list[ImageFile] = []
        self.seen: set[tuple[int, int]] = set()  # device and inode, of files and folders
        self.links: list[tuple[bytes, _Rules]] = []

    def run(self, roots: Sequence[str | bytes | Path], exclude: GitIgnoreSpec) -> list[ImageFile]:
        """List the real folders of all roots, then the targets of links, round by round."""
        # Parents before children, so that the rules of the outermost root apply.
        for path in sorted(os.path.abspath(os.fsencode(root)) for root in roots):
            name = os.fsdecode(path)
            try:
                status = os.stat(path)
                if stat.S_ISDIR(status.st_mode):
                    os.scandir(path).close()
            except FileNotFoundError:
                raise DatasetError(
                    f"{name} does not exist; give an existing folder of images."
                ) from None
            except OSError as error:
                raise DatasetError(
                    f"{name} cannot be read ({error.strerror}); give a readable folder of images."
                ) from error
            if stat.S_ISDIR(status.st_mode):
                self._walk(path, status, _Rules(((_with_slash(path), exclude),)))
            elif stat.S_ISREG(status.st_mode):
                self._add(path, status)
            else:
                raise DatasetError(
                    f"{name} is neither a file nor a folder; give a folder of images."
                )
        while self.links:
            links, self.links = sorted(self.links, key=lambda link: link[0]), []
            for path, rules in links:
                self._follow(path, rules)
        return sorted(self.files, key=lambda file: file.path)

    def _walk(self, root: bytes, status: os.stat_result, rules: _Rules) -> None:
        """List a folder and all real folders below it; links are kept for later."""
        waiting = [(root, status, rules)]
        while waiting:
            folder, status, rules = waiting.pop()
            if not self._is_new(status):
                continue
            rules = rules.within(folder)
            for entry in self._entries(folder):
                if not self.include_hidden and _is_hidden(entry.name):
                    continue
                try:
                    if entry.is_symlink():
                        self.links.append((entry.path, rules))
                        continue
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    self._skip(entry.path, error)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if not rules.ignore(entry.path, is_folder=True):
                        waiting.append((entry.path, status, rules))
                elif not rules.ignore(entry.path, is_folder=False):
                    self._consider(entry.path, status)

    def _follow(self, path: bytes, rules: _Rules) -> None:
        """List the target of a link."""
        try:
            status = os.stat(path)
        except OSError as error:
            is_broken = isinstance(error, FileNotFoundError)
            if not rules.ignore(path, is_folder=False):
                self.on_skip(path, "broken link" if is_broken else _system_reason(error))
            return
        is_folder = stat.S_ISDIR(status.st_mode)
        if rules.ignore(path, is_folder):
            return
        if is_folder:
            self._walk(path, status, rules)
        else:
            self._consider(path, status)

    def _entries(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        """The entries of a folder, sorted by name; none, after a report, if it is unreadable."""
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._skip(folder, error)
            return []

    def _consider(self, path: bytes, status: os.stat_result) -> None:
        """Add a file if it may be an image."""
        if not stat.S_ISREG(status.st_mode):
            self.on_skip(path, "not a regular file")
            return
        if os.path.splitext(path)[1].lower() not in IMAGE_EXTENSIONS:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    header = os.read(descriptor, SNIFF_BYTES)
                finally:
                    os.close(descriptor)
            except OSError as error:
                self._skip(path, error)
                return
            if sniff(header) is None:
                return
        self._add(path, status)

    def _add(self, path: bytes, status: os.stat_result) -> None:
        if self._is_new(status):
            self.files.append(ImageFile(path, status.st_size, status.st_mtime_ns))

    def _is_new(self, status: os.stat_result) -> bool:
        """Record a file or folder; False if it was recorded before."""
        key = (status.st_dev, status.st_ino)
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new

    def _skip(self, path: bytes, error: OSError) -> None:
        self.on_skip(path, _system_reason(error))


def _system_reason(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in _SYSTEM_NAMES


def _with_slash(folder: bytes) -> bytes:
    return folder if folder.endswith(b"/") else folder + b"/"


def _compile(lines: Sequence[str], where: str) -> GitIgnoreSpec:
    """Compile .gitignore patterns; ``where`` names their source in the error."""
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(lines)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"{where} is not valid ({error}); give patterns in the syntax of .gitignore."
        ) from error
