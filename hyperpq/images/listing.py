"""Which images are meant: those below folders, and those that a list of names stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

from hyperpq.datasets.decode import SNIFF_BYTES, sniff
from hyperpq.datasets.file_source import file_exists, is_folder
from hyperpq.datasets.folder import scan_roots
from hyperpq.datasets.listing import Listing
from hyperpq.datasets.tar_source import is_shard
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images.query_parts import StdinImage, one_image
from hyperpq.images.sources import EncodedImage
from hyperpq.images.url_image import is_url
from hyperpq.store.place import holds_index
from hyperpq.utils.locations import absolute, is_remote, protocol_of

# As in names of shards: shards-{0000..0099}.tar.
_NUMBERS = re.compile(rb"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")
_MAX_EXPANDED = 100_000

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def as_paths(paths: PathLike | Sequence[PathLike]) -> list[bytes]:
    """Paths as bytes; a single path counts as a list of one."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        return [os.fsencode(paths)]
    return [os.fsencode(path) for path in paths]


def as_roots(roots: PathLike | Sequence[PathLike]) -> list[bytes]:
    """Folders, shards or images as absolute paths or URLs, at least one; one counts as a list.

    ``{0000..0099}`` in a path stands for each of these numbers.

    Raises
    ------
    InvalidInputError
        If there is none, one is no path, or one is empty, which would mean the current folder; or
        if one is a URL of anything else than object storage.
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
    others = [protocol_of(path) for path in paths if protocol_of(path) and not is_remote(path)]
    if others:
        raise InvalidInputError(
            f"roots has a URL of the protocol {others[0]}, which cannot be listed; "
            "expected a folder, an image, or a URL of object storage such as s3://bucket/folder."
        )
    return [absolute(path) for given in paths for path in _expanded(given)]


def _expanded(path: bytes) -> list[bytes]:
    """The paths that ``{0000..0099}`` in a path stands for, unless a file has that very name."""
    found = None if os.path.lexists(path) else _NUMBERS.search(path)
    if found is None:
        return [path]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MAX_EXPANDED:
        raise InvalidInputError(
            f"roots has {os.fsdecode(path)!r}; expected a first number that is no larger than the "
            f"last one, and at most {_MAX_EXPANDED:,} of them."
        )
    width = len(found[1])
    return [
        end
        for number in range(first, last + 1)
        for end in _expanded(
            b"%s%0*d%s" % (path[: found.start()], width, number, path[found.end() :])
        )
    ]


@dataclass(frozen=True)
class NamedImages:
    """What names of images and folders stand for.

    Attributes
    ----------
    paths : list of bytes
        Images, in the order of the names: their paths, or what they are called. Whether they can be
        read is found out later.
    contents : dict of int to EncodedImage
        Those that are no files, by their positions: images of the web, and one on stdin.
    skipped : dict of bytes to str
        Path and reason of each folder, or entry of one, that cannot be examined.
    """

    paths: list[bytes] = field(default_factory=list)
    skipped: dict[bytes, str] = field(default_factory=dict)
    contents: dict[int, EncodedImage] = field(default_factory=dict)

    @property
    def images(self) -> list[str | EncodedImage]:
        """The images, as a query takes them."""
        return [self.contents.get(n, os.fsdecode(path)) for n, path in enumerate(self.paths)]

    def missing(self) -> dict[bytes, str]:
        """Those of the images that do not exist, with the reason that a query gives for them.

        Of images in object storage only a query finds out.
        """
        return {
            path: "no such file"
            for number, path in enumerate(self.paths)
            if not (number in self.contents or is_remote(path))
            and not (os.path.lexists(path) or file_exists(path))
        }


def query_paths(
    names: Sequence[str],
    stdin: BinaryIO,
    *,
    null: bool = False,
    stdin_image: StdinImage | None = None,
) -> NamedImages:
    """Images that the arguments of a command stand for.

    Parameters
    ----------
    names : sequence of str
        Each is an image, the address of one on the web (``https://`` or ``http://``), a folder of
        images, ``@FILE`` for a file with one name per line, or ``-`` for names on ``stdin``. Images
        and folders may be URLs of object storage, and names in lists are paths or such URLs.
    stdin : binary file
        Read only if one of the names is ``-``.
    null : bool
        Whether the names in a list end with a NUL, as `find -print0` writes them, instead of the
        end of a line. Such a name may hold any character.
    stdin_image : StdinImage, optional
        What ``-`` is instead: the content of one image.

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
    contents: dict[int, EncodedImage] = {}
    for name in names:
        image = (
            one_image(name, stdin_image) if is_url(name) or (name == "-" and stdin_image) else ""
        )
        if not isinstance(image, str):
            contents[len(out)] = image
            out.append(image.name)
        elif name == "-":
            out += _listed("stdin", stdin.read, null)
        elif name.startswith("@"):
            if os.path.lexists(name) and not os.path.lexists(name[1:]):
                raise InvalidInputError(
                    f"{name} is the list {name[1:]}, which does not exist; the image of that name "
                    f"is ./{name}."
                )
            out += _listed(name[1:], Path(name[1:]).read_bytes, null)
        elif is_folder(os.fsencode(name)):
            listing = _below(os.fsencode(name))
            out += [file.path for file in listing.files]
            skipped |= dict(sorted(listing.skipped.items()))
        else:
            out.append(os.fsencode(name))
    kept = [number for number, path in enumerate(out) if (path if null else path.strip())]
    paths = [out[number] for number in kept]
    contents = {at: contents[number] for at, number in enumerate(kept) if number in contents}
    if not paths and not skipped:
        given = " ".join(names) or repr("")
        raise InvalidInputError(f"{given} names no image; expected at least one.")
    return NamedImages(paths, skipped, contents)


def _below(folder: bytes) -> Listing:
    """The images below a folder; one that cannot be listed is the only skipped entry."""
    try:
        if not (is_remote(folder) or is_shard(folder)):
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
    if (kind := sniff(data[:SNIFF_BYTES])) is not None and not null:
        hint = "; give --stdin-image for one image" if source == "stdin" else ""
        raise InvalidInputError(
            f"{source} has the content of an image ({kind}); expected the name of one image per "
            f"line{hint}."
        )
    if b"\0" in data:
        raise InvalidInputError(
            f"{source} has a NUL, which no name holds; expected the name of one image per line, or "
            "the option null (-0) for names that end with a NUL."
        )
    # Editors of Windows begin a file with a byte-order mark.
    return data.removeprefix(b"\xef\xbb\xbf").splitlines()
