"""Which images are meant: those below folders, and those that a list of names stands for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

from hyperpq.datasets.folder import scan_roots
from hyperpq.datasets.listing import Listing
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.store.place import holds_index

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def as_paths(paths: PathLike | Sequence[PathLike]) -> list[bytes]:
    """Paths as bytes; a single path counts as a list of one."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        return [os.fsencode(paths)]
    return [os.fsencode(path) for path in paths]


def as_roots(roots: PathLike | Sequence[PathLike]) -> list[bytes]:
    """Folders or images as absolute paths, at least one; a single path counts as a list of one.

    Raises
    ------
    InvalidInputError
        If there is none, one is no path, or one is empty, which would mean the current folder.
    """
    try:
        paths = as_paths(roots)
    except TypeError:
        raise InvalidInputError(
            f"roots is {roots!r}; expected the path of a folder or an image, or a sequence of them."
        ) from None
    if any(b"\0" in path for path in paths):
        raise InvalidInputError("roots has a path with a NUL, which no path holds.")
    if not paths or not all(paths):
        found = "an empty path" if paths else "no path"
        raise InvalidInputError(f"roots has {found}; expected at least one folder of images.")
    return [os.path.abspath(path) for path in paths]


@dataclass(frozen=True)
class NamedImages:
    """What names of images and folders stand for.

    Attributes
    ----------
    paths : list of bytes
        Images, in the order of the names. Whether they can be read is found out later.
    skipped : dict of bytes to str
        Path and reason of each folder, or entry of one, that cannot be examined.
    """

    paths: list[bytes] = field(default_factory=list)
    skipped: dict[bytes, str] = field(default_factory=dict)

    def missing(self) -> dict[bytes, str]:
        """Those of the images that do not exist, with the reason that a query gives for them."""
        return {path: "no such file" for path in self.paths if not os.path.lexists(path)}


def query_paths(names: Sequence[str], stdin: BinaryIO, *, null: bool = False) -> NamedImages:
    """Images that the arguments of a command stand for.

    Parameters
    ----------
    names : sequence of str
        Each is an image, a folder of images, ``@FILE`` for a file with one name per line, or ``-``
        for names on ``stdin``.
    stdin : binary file
        Read only if one of the names is ``-``.
    null : bool
        Whether the names in a list end with a NUL, as `find -print0` writes them, instead of the
        end of a line. Such a name may hold any character.

    Returns
    -------
    NamedImages
        A folder that cannot be listed is skipped, as an image that cannot be read is by a query.

    Raises
    ------
    InvalidInputError
        If a list of names cannot be read, or if there is no image.
    """
    out: list[bytes] = []
    skipped: dict[bytes, str] = {}
    for name in names:
        if name == "-":
            out += _listed("stdin", stdin.read, null)
        elif name.startswith("@"):
            if os.path.lexists(name) and not os.path.lexists(name[1:]):
                raise InvalidInputError(
                    f"{name} is the list {name[1:]}, which does not exist; the image of that name "
                    f"is ./{name}."
                )
            out += _listed(name[1:], Path(name[1:]).read_bytes, null)
        elif os.path.isdir(name):
            listing = _below(os.fsencode(name))
            out += [file.path for file in listing.files]
            skipped |= dict(sorted(listing.skipped.items()))
        else:
            out.append(os.fsencode(name))
    paths = [path for path in out if (path if null else path.strip())]
    if not paths and not skipped:
        given = " ".join(names) or repr("")
        raise InvalidInputError(f"{given} names no image; expected at least one.")
    return NamedImages(paths, skipped)


def _below(folder: bytes) -> Listing:
    """The images below a folder; one that cannot be listed is the only skipped entry."""
    try:
        os.scandir(folder).close()
        return scan_roots([folder], is_left_out=holds_index)
    except OSError as error:
        return Listing(skipped={folder: (error.strerror or "cannot be read").lower()})
    except DatasetError as error:
        return Listing(skipped={folder: str(error)})


def _listed(source: str, read: Callable[[], bytes], null: bool) -> list[bytes]:
    """The names in a list."""
    try:
        data = read()
    except OSError as error:
        wanted = "" if source == "stdin" else "a file with "
        raise InvalidInputError(
            f"{source} cannot be read ({error.strerror or error}); expected {wanted}the name of "
            "one image per line."
        ) from error
    if null:
        return data.split(b"\0")
    if b"\0" in data:
        raise InvalidInputError(
            f"{source} has a NUL, which no name holds; expected the name of one image per line, or "
            "the option null (-0) for names that end with a NUL."
        )
    # Editors of Windows begin a file with a byte-order mark.
    return data.removeprefix(b"\xef\xbb\xbf").splitlines()
