"""Files that a user names for results: written completely or not at all.

A device or a pipe cannot be replaced without harm, so it is written to: ``-o /dev/stdout`` prints.
What a symbolic link leads to is replaced, and the link stays.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperpq.errors import InvalidInputError
from hyperpq.utils.files import fsync_folder, os_errors, remove_quietly, rename_over


def check_writable(path: Path) -> None:
    """Check that a file can be written at ``path``, before the work whose result it takes.

    Raises
    ------
    InvalidInputError
        If the path is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder; expected the name of a file to write.")
    folder = (_target(path) if path.is_symlink() else path).parent
    if not is_stream(path) and not folder.is_dir():
        raise InvalidInputError(
            f"{path} cannot be written, as there is no folder {folder}; create it first."
        )


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary name for the new content of a file, which goes to ``path`` at the end.

    Raises
    ------
    StoreError
        If the system refuses; a file at ``path`` is as it was.
    """
    if is_stream(path):
        with os_errors("write", path), tempfile.TemporaryDirectory(prefix="hyperpq-") as folder:
            aside = Path(folder) / "content"
            yield aside
            # At its end, if it is a file that the shell has opened as standard output.
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            with open(aside, "rb") as source, open(handle, "wb") as stream:
                shutil.copyfileobj(source, stream)
        return
    target = _target(path)
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os_errors("write", path):
            yield aside
            handle = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        rename_over(aside, target)
    except BaseException:
        remove_quietly(aside)
        raise
    fsync_folder(target.parent)


def _target(path: Path) -> Path:
    """What is replaced when ``path`` is written: the end of its links."""
    return Path(os.path.realpath(path))


def is_stream(path: Path) -> bool:
    """Whether a path leads to something else than a regular file, or to an open descriptor."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    # A regular file that the shell has opened as /dev/stdout goes on after what is written to it.
    return not stat.S_ISREG(mode) or os.path.abspath(path).startswith(("/dev/", "/proc/"))
