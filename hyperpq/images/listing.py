"""Which images are meant: those below folders, and those that a list of names stands for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO, TypeAlias

from hyperpq.datasets import folder
from hyperpq.datasets.folder import ImageFile
from hyperpq.errors import InvalidInputError

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def list_images(
    roots: Sequence[PathLike],
    *,
    include_hidden: bool = False,
    exclude: Sequence[str] = (),
    exclude_folders: Sequence[bytes] = (),
) -> tuple[list[ImageFile], dict[bytes, str]]:
    """List the images below folders, and the files that were skipped.

    Parameters
    ----------
    roots, include_hidden, exclude
        See `datasets.folder.list_images`.
    exclude_folders : sequence of bytes
        Absolute paths of folders whose images are not listed, such as the index itself.

    Returns
    -------
    files : list of ImageFile
        Sorted by path.
    skipped : dict of bytes to str
        Path and reason of each entry that could not be examined.
    """
    skipped: dict[bytes, str] = {}
    files = folder.list_images(
        [os.fsdecode(root) for root in roots],
        include_hidden=include_hidden,
        exclude=exclude,
        on_skip=skipped.__setitem__,
    )
    excluded = tuple(os.path.join(name, b"") for name in exclude_folders)
    return [file for file in files if not file.path.startswith(excluded)], skipped


def as_paths(paths: PathLike | Sequence[PathLike]) -> list[bytes]:
    """Paths as bytes; a single path counts as a list of one."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        return [os.fsencode(paths)]
    return [os.fsencode(path) for path in paths]


def query_paths(names: Sequence[str], stdin: BinaryIO) -> list[bytes]:
    """Images that the arguments of a command stand for.

    Parameters
    ----------
    names : sequence of str
        Each is an image, a folder of images, ``@FILE`` for a file with one name per line, or ``-``
        for names on ``stdin``.
    stdin : binary file
        Read only if one of the names is ``-``.

    Raises
    ------
    InvalidInputError
        If a list of names cannot be read, or if there is no image.
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
                    f"{name[1:]} cannot be read ({error.strerror}); expected a file with the name "
                    "of one image per line after @."
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
