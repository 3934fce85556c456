"""What a listing of folders is asked for, and what it finds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

_MAX_SUFFIX = 12


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that may be an image.

    Parameters
    ----------
    path : bytes
        Absolute, with symbolic links left as they are; that of a member of a shard is below that
        of the shard.
    size : int
        Bytes.
    mtime_ns : int
        Time of the last change, nanoseconds since 1970.
    """

    path: bytes
    size: int
    mtime_ns: int


@dataclass
class Listing:
    """What a listing of some roots has found.

    Attributes
    ----------
    files : sequence of ImageFile
        Files that may be images, sorted by path; made one by one as they are asked for.
    skipped : dict of bytes to str
        Path and reason of each entry that could not be examined, and of each image of a format that
        is not read, by the ending of its name.
    unknown : set of bytes
        Those of the skipped entries that may still be there: a folder that cannot be read, an
        entry after an I/O error, a broken link. Nothing is known about images at or below these
        paths.
    empty : list of bytes
        Absolute paths of roots without images, or that do not exist.
    other : Counter of str
        Number of files that are no images, by the ending of their names in lower case; those
        without one, or with a long one, are counted for ``""``.
    """

    files: Sequence[ImageFile] = ()
    skipped: dict[bytes, str] = field(default_factory=dict)
    unknown: set[bytes] = field(default_factory=set)
    empty: list[bytes] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)

    def count_other(self, path: bytes) -> None:
        """Count a file that is no image."""
        ending = os.path.splitext(path)[1].lower()
        ending = ending if len(ending) <= _MAX_SUFFIX else b""
        self.other[ending.decode("utf-8", "backslashreplace")] += 1


@dataclass(frozen=True)
class RootOptions:
    """What is listed below a root.

    Attributes
    ----------
    include_hidden : bool
        Whether to list names that begin with a dot and names that operating systems create
        (``Thumbs.db``, ``@eaDir``, ``$RECYCLE.BIN``, ``lost+found``, ...).
    exclude : tuple of str
        Patterns in the syntax of .gitignore, relative to the root. They take precedence over those
        in ``.hyperpqignore`` files, which any folder may contain.
    """

    include_hidden: bool = False
    exclude: tuple[str, ...] = ()
