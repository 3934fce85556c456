"""`IndexedFiles`: the files of indexed images by their ids, and nothing else of the disk."""

from __future__ import annotations

import io
import logging
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import xxhash

from hyperpq.datasets.decode import SNIFF_BYTES, sniff
from hyperpq.datasets.file_source import shard_of
from hyperpq.datasets.remote_source import RemoteSource
from hyperpq.datasets.tar_source import Section, TarSource
from hyperpq.errors import ImageError, UnknownIdError
from hyperpq.gallery.thumbnails import Thumbnail, small_image
from hyperpq.images.changes import stored_time
from hyperpq.images.roots import Roots, present_roots
from hyperpq.images.sources import EncodedImage
from hyperpq.index.path_map import is_at_or_below
from hyperpq.index.reader import IndexView
from hyperpq.server.served_index import ServedIndex
from hyperpq.utils.locations import is_remote

log = logging.getLogger(__name__)

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WebP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "HEIC": "image/heic",
    "AVIF": "image/avif",
    "RAW": "application/octet-stream",
}
"""Types of the formats that `sniff` names. SVG and HTML, which can run code, are not among them."""
_LARGEST_OBJECT = 256 << 20
# Bytes of thumbnails that are kept; those of the default size have 8 kB.
_KEPT = 64 << 20


class NoImageError(Exception):
    """There is no image to show for an id; the message says why, without a path."""


@dataclass(frozen=True)
class OpenImage:
    """The file of an indexed image, open for reading.

    Attributes
    ----------
    file : binary file
        At its beginning.
    size : int
        Number of bytes.
    media_type : str
        By its content.
    version : str
        Changes with the file.
    name : bytes
        Its name, without folders.
    """

    file: BinaryIO
    size: int
    media_type: str
    version: str
    name: bytes


class IndexedFiles:
    """The images of an index, by their ids.

    A file is opened without following a link in its place, and is served only if it is below a
    folder that the index records, whatever links lead there, and begins like an image. Of an image
    in a shard that is the shard. So a file
    that was replaced by a link, and a folder that was replaced by one, show nothing outside.

    Parameters
    ----------
    served : ServedIndex
        The index.
    follow_links : bool
        Whether to serve what the index has found by links that leave its folders. The target must
        have the size and the time that the index has recorded.
    remote_images : bool
        Whether to serve images in object storage that are below a folder which the index records.
        An index of somebody else decides by its URLs which hosts and buckets are asked, with the
        credentials of the server.
    """

    def __init__(
        self, served: ServedIndex, *, follow_links: bool = False, remote_images: bool = False
    ) -> None:
        self._served, self._follow_links = served, follow_links
        self._remote_images, self._has_said = remote_images, False
        self._kept: OrderedDict[tuple[bytes, str, int], bytes] = OrderedDict()
        self._kept_bytes, self._keeping = 0, threading.Lock()
        self._known_roots: tuple[Mapping[str, Any], Roots] = {}, ()

    @contextmanager
    def open(self, id: int) -> Iterator[OpenImage]:
        """Open the file of an image.

        Raises
        ------
        NoImageError
            If the index has no such image, or its file is not to be served.
        """
        view = self._served.current.index.view()
        try:
            [path] = view.paths_of([id])
        except UnknownIdError:
            raise NoImageError(f"the index has no image with the id {id}") from None
        if is_remote(path):
            yield self._open_remote(view, id, path)
            return
        if not os.path.isabs(path):
            raise NoImageError(f"the image {id} was added without a file")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        if not self._follow_links:
            flags |= os.O_NOFOLLOW
        place = path
        try:
            try:
                handle = os.open(path, flags)
            except NotADirectoryError:
                place = shard_of(path) or path
                handle = os.open(place, flags)
        except OSError:
            raise NoImageError(f"the file of the image {id} is gone or cannot be read") from None
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise NoImageError(f"the file of the image {id} is no file any more")
        version = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
        with open(handle, "rb") as opened:
            file: BinaryIO = opened
            size = status.st_size
            if place != path:
                try:
                    offset, size = TarSource(place).place(opened, path)
                except OSError:
                    raise NoImageError(f"the image {id} is not in its shard any more") from None
                file = io.BufferedReader(Section(opened, offset, size))
                version += f"-{offset:x}"
            state = size, stored_time(status.st_mtime_ns)
            if not (
                self._is_in_its_place(view, place, status) or self._is_recorded(view, id, state)
            ):
                raise NoImageError(f"the file of the image {id} is not where it was")
            kind = sniff(file.read(SNIFF_BYTES))
            if kind is None:
                raise NoImageError(f"the file of the image {id} is no image any more")
            file.seek(0)
            name = os.path.basename(path)
            yield OpenImage(file, size, MEDIA_TYPES[kind], version, name)

    def _open_remote(self, view: IndexView, id: int, path: bytes) -> OpenImage:
        """An image in object storage, whose content is read into memory."""
        if not self._remote_images:
            if not self._has_said:
                self._has_said = True
                log.warning(
                    "%s and other images in object storage are not served; start the server with "
                    "--remote-images if you trust the index.",
                    os.fsdecode(path),
                )
            raise NoImageError(
                f"the image {id} is in object storage, whose images this server does not read"
            )
        if not any(is_at_or_below(path, root.path) for root in self._roots(view)):
            raise NoImageError(f"the image {id} is in no folder of the index")
        source = RemoteSource()
        try:
            status = source.status(path)
            if status.size > _LARGEST_OBJECT:
                raise NoImageError(f"the image {id} is larger than {_LARGEST_OBJECT >> 20} MiB")
            content = source.read(path)
        except OSError as error:
            log.warning("%s cannot be served: %s.", os.fsdecode(path), error.strerror)
            raise NoImageError(f"the file of the image {id} is gone or cannot be read") from None
        kind = sniff(content[:SNIFF_BYTES])
        if kind is None:
            raise NoImageError(f"the file of the image {id} is no image any more")
        version = f"{len(content):x}-{xxhash.xxh3_64_hexdigest(path + content)}"
        name = os.path.basename(path)
        return OpenImage(io.BytesIO(content), len(content), MEDIA_TYPES[kind], version, name)

    def _is_in_its_place(self, view: IndexView, path: bytes, opened: os.stat_result) -> bool:
        """Whether what was opened is below a recorded folder now, and no link leads out of it."""
        real = os.path.realpath(path)
        try:
            status = os.lstat(real)
        except OSError:
            return False
        # Whatever was exchanged since it was opened, this is the same file.
        if (status.st_dev, status.st_ino) != (opened.st_dev, opened.st_ino):
            return False
        return any(
            is_at_or_below(path, root.path)
            and (real == path or is_at_or_below(real, os.path.realpath(root.path)))
            for root in self._roots(view)
        )

    def _roots(self, view: IndexView) -> Roots:
        metadata = view.rows.metadata
        known, roots = self._known_roots
        # The object is that of the snapshot, which may have thousands of folders.
        if metadata is not known:
            roots = present_roots(metadata, self._served.path.absolute())
            self._known_roots = metadata, roots
        return roots

    def _is_recorded(self, view: IndexView, id: int, state: tuple[int, int]) -> bool:
        """Whether a file that links lead to is the one that was indexed."""
        if not self._follow_links:
            return False
        recorded = view.attributes_of([id])
        return state == (int(recorded["size"][0]), int(recorded["mtime"][0].astype("int64")))

    def thumbnail(self, image: OpenImage, size: int, max_megapixels: float) -> bytes:
        """A small WebP of an image, with a longer side of at most ``size`` pixels.

        Raises
        ------
        NoImageError
            If it cannot be decoded.
        """
        key = image.name, image.version, size
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            small = small_image(EncodedImage(image.file, image.name), size, max_megapixels)
        except ImageError as error:
            raise NoImageError(f"the image cannot be decoded: {error}") from None
        content = Thumbnail.of(small).content
        with self._keeping:
            if key not in self._kept:
                self._kept[key] = content
                self._kept_bytes += len(content)
            while self._kept_bytes > _KEPT:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return content
