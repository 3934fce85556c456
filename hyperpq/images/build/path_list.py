"""`PathList`: the images of a build as a list of paths, gone through once and never in memory."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import compress, islice
from typing import BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from hyperpq.datasets.decode import SNIFF_BYTES, sniff
from hyperpq.datasets.file_source import source_of
from hyperpq.datasets.image_files import examine
from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.datasets.remote_source import RemoteSource, check_remote, in_parallel
from hyperpq.datasets.source_listing import images_in, is_image
from hyperpq.datasets.tar_source import TarSource, is_shard
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.utils.locations import absolute, is_remote, protocol_of

_AT_ONCE = 1 << 14
_BLOCK = 1 << 20
# The longest path that Linux takes; what is longer is no list of paths.
_MAX_PATH = 4096
_MARK = b"\xef\xbb\xbf"  # with which editors of Windows begin a file


@dataclass(frozen=True)
class PathList:
    """A file with the path of one image, or of one tar shard, or the URL of an image, a line.

    Attributes
    ----------
    file : path-like, optional
        The file; None for standard input. Paths in it are relative to the current folder.
    null : bool
        Whether paths end with a NUL, as ``find -print0`` writes them, instead of the end of a line.
    """

    file: str | os.PathLike[str] | None
    null: bool = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return "stdin" if self.file is None else os.fspath(self.file)

    def to_stored(self) -> dict[str, object]:
        """What a resumed build is recognised by."""
        path = None if self.file is None else os.path.abspath(os.fsencode(self.file)).hex()
        return {"file": path, "null": self.null}

    def check(self) -> None:
        """Raise `InvalidInputError` if the file cannot be opened."""
        if self.file is not None:
            with self._open():
                pass

    def images(self, found: Listing, advance: Callable[[int], object]) -> Iterator[ImageFile]:
        """The images in the order of the list, each path once.

        Parameters
        ----------
        found : Listing
            Gets what else is in the list: paths that are skipped, and numbers of other files.
        advance : callable
            Called with a number of images that were found.

        Raises
        ------
        InvalidInputError
            If the list cannot be read, or is none.
        DatasetError
            If it has no image; raised when the first one is asked for.
        """
        names, known, count = self._names(), _Known(), 0
        while paths := [absolute(name) for name in islice(names, _AT_ONCE)]:
            before, new = count, known.are_new(paths)
            objects = _objects([path for path in compress(paths, new) if is_remote(path)])
            for path, is_new in zip(paths, new, strict=True):
                if not is_new:
                    continue
                files = _object(next(objects), found) if is_remote(path) else _files(path, found)
                if files and files[0].path != path:
                    # Those of a shard may be in the list, too.
                    files = [*compress(files, known.are_new([file.path for file in files]))]
                yield from files
                count += len(files)
            advance(count - before)
        if not count:
            instead = "it is empty"
            if found.skipped:
                path, reason = next(iter(found.skipped.items()))
                instead = f"{len(found.skipped):,} skipped, such as {os.fsdecode(path)} ({reason})"
            elif found.other:
                instead = f"{sum(found.other.values()):,} files of other kinds"
            raise DatasetError(
                f"{self.name} has no path of an image ({instead}); expected one path per line."
            )

    def _names(self) -> Iterator[bytes]:
        end = b"\0" if self.null else b"\n"
        rest, is_first = b"", True
        with self._open() as data:
            while block := self._read(data):
                if is_first and not self.null:
                    self._check(block)
                    block = block.removeprefix(_MARK)
                is_first = False
                *names, rest = (rest + block).split(end)
                if len(rest) > _MAX_PATH:
                    raise self._no_list(f"a path of more than {_MAX_PATH:,} bytes")
                yield from self._cleaned(names)
        yield from self._cleaned([rest])

    def _cleaned(self, names: list[bytes]) -> Iterator[bytes]:
        for name in names:
            name = name if self.null else name.removesuffix(b"\r")
            if b"\0" in name:
                raise self._no_list("a NUL, which no path holds")
            if name if self.null else name.strip():
                yield name

    def _check(self, block: bytes) -> None:
        if kind := sniff(block[:SNIFF_BYTES]):
            raise self._no_list(f"the content of an image ({kind})")

    def _no_list(self, found: str) -> InvalidInputError:
        return InvalidInputError(
            f"{self.name} has {found}; expected one path of an image per line, or, with the option "
            "null (-0), paths that end with a NUL."
        )

    def _open(self) -> BinaryIO | nullcontext[BinaryIO]:
        if self.file is None:
            if sys.stdin is None:
                raise InvalidInputError("stdin is closed; expected paths of images on it.")
            return nullcontext(sys.stdin.buffer)
        try:
            return open(self.file, "rb")
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _read(self, data: BinaryIO) -> bytes:
        try:
            return data.read(_BLOCK)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError | ValueError) -> InvalidInputError:
        reason = getattr(error, "strerror", None) or error
        return InvalidInputError(
            f"{self.name} cannot be read ({reason}); expected a file with one path of an image per "
            "line."
        )


def check_listable(options: Mapping[str, object], *, is_there: bool) -> None:
    """Raise `InvalidInputError` if an index cannot be built of a list of paths.

    Parameters
    ----------
    options : mapping of str to object
        Options of the build, by the names of fields of `BuildOptions`.
    is_there : bool
        Whether there is an index that the build would update.
    """
    for name in ("include_hidden", "exclude"):
        if options.get(name):
            raise InvalidInputError(
                f"{name} is given with a list of paths; expected it with folders; leave it out, as "
                "all images of the list are meant."
            )
    if is_there:
        raise InvalidInputError(
            "there is an index already, and a list of paths makes a new one; replace it with "
            "overwrite (--overwrite), or add the images with ImageIndex.add."
        )


class _Known:
    """Which paths have come before: 16 bytes of each, whose checksum stands for it."""

    def __init__(self) -> None:
        # Sorted, each at least twice as long as the next, so that little is merged.
        self._runs: list[NDArray[np.bytes_]] = []

    def are_new(self, paths: list[bytes]) -> NDArray[np.bool_]:
        """For each path whether it has not come before."""
        sums = np.array([xxhash.xxh3_128_digest(path) for path in paths], "S16")
        _, first = np.unique(sums, return_index=True)
        is_new = np.zeros(len(paths), bool)
        is_new[first] = True
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, sums), len(run) - 1)
            is_new &= run[at] != sums
        if is_new.any():
            self._runs.append(np.sort(sums[is_new]))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))
        return is_new


def _objects(paths: list[bytes]) -> Iterator[Listing]:
    """What each of some objects is found to be."""
    for protocol in sorted({protocol_of(path) for path in paths}):
        # A package that is missing is no reason to skip all that it would read.
        check_remote(b"%s://x/" % protocol.encode())
    source = RemoteSource()

    def examined(path: bytes) -> Listing:
        own = Listing()
        try:
            file = source.status(path)
        except OSError as error:
            own.skipped[path] = str(error.strerror)
        else:
            own.files = [file] if is_image(source, file, own) else []
        return own

    return in_parallel(examined, paths)


def _object(own: Listing, found: Listing) -> Sequence[ImageFile]:
    """The image that an object is; none, after a note, if it is none."""
    found.skipped.update(own.skipped)
    found.other.update(own.other)
    return own.files


def _files(path: bytes, found: Listing) -> Sequence[ImageFile]:
    """The image at a path, or those in a shard; none, after a note, if there is none."""
    try:
        try:
            status = os.stat(path)
        except NotADirectoryError:
            source = source_of(path)
            if source is None:
                raise
            return [source.status(path)]
        if stat.S_ISDIR(status.st_mode):
            found.skipped[path] = "is a folder"
        elif is_shard(path, status):
            return [*images_in(TarSource(path), path, found, include_hidden=True)]
        elif examine(path, status, found):
            return [ImageFile(path, status.st_size, status.st_mtime_ns)]
    except OSError as error:
        found.skipped[path] = (error.strerror or "cannot be read").lower()
    return []
