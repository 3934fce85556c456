"""Which files are meant: images below folders, and those that a command line names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import BinaryIO

from hyperpq.datasets import folder
from hyperpq.datasets.folder import ImageFile
from hyperpq.errors import InvalidInputError

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def list_images(
    roots: Sequence[PathLike],
    *,
    include_hidden: bool = False,
    exclude: Sequence[str] = (),
    leave_out: Callable[[bytes], bool] = lambda path: False,
) -> tuple[list[ImageFile], dict[bytes, str]]:
    """List the images below folders, with the reasons of what was left out.

    Parameters
    ----------
    roots, include_hidden, exclude
        See `datasets.folder.list_images`.
    leave_out : callable
        Says which paths never are images of the collection, such as the index itself.

    Returns
    -------
    files : list of ImageFile
    skipped : dict of bytes to str
    """
    skipped: dict[bytes, str] = {}
    files = folder.list_images(
        [os.fsdecode(root) for root in roots],
        include_hidden=include_hidden,
        exclude=exclude,
        on_skip=skipped.__setitem__,
    )
    return [file for file in files if not leave_out(file.path)], skipped


def as_paths(paths: PathLike | Sequence[PathLike]) -> list[bytes]:
    """Paths as bytes; a single one counts as a list of one."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        return [os.fsencode(paths)]
    return [os.fsencode(path) for path in paths]


def query_paths(names: Sequence[str], stdin: BinaryIO) -> list[bytes]:
    """Images that a command line names.

    Parameters
    ----------
    names : sequence of str
        Each an image, a folder of images, ``@FILE`` with one name a line, or ``-`` for names on
        ``stdin``.
    stdin : binary file
        Read when asked for.

    Raises
    ------
    InvalidInputError
        A list that can't be read, or nothing named at all.
    """
    out: list[bytes] = []
    for name in names:
        if name == "-":
            out += stdin.read().splitlines()
        elif name.startswith("@"):
            try:
                with open(name[1:], "rb") as file:
                    out += file.read().splitlines()
            except OSError as error:
                raise InvalidInputError(
                    f"{name[1:]} can't be read ({error.strerror}); "
                    "after @ give a file with the name of one image a line."
                ) from error
        elif os.path.isdir(name):
            out += [file.path for file in list_images([name])[0]]
        else:
            out.append(os.fsencode(name))
    paths = [path for path in out if path.strip()]
    if not paths:
        given = " ".join(names) or repr("")
        raise InvalidInputError(f"{given} names no image; expected at least one.")
    return paths
