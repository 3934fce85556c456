"""What an image to search for may be: a path, the content of a file, an array, an image of Pillow.

The type alone decides. ``bytes`` are always the content of an image file, and paths are text or
path objects, so that what a stranger uploads is never taken for the name of a file.
"""

from __future__ import annotations

import inspect
import io
import os
import threading
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.decode import SNIFF_BYTES, sniff
from hyperpq.datasets.decode_errors import is_of_the_system, reason
from hyperpq.errors import ImageError, ImageUnavailableError, InvalidInputError
from hyperpq.utils.validation import as_array, as_weights

if TYPE_CHECKING:
    from PIL import Image

ImageLike: TypeAlias = Union[
    str,
    os.PathLike[str],
    os.PathLike[bytes],
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    NDArray[np.uint8],
    "Image.Image",
    "EncodedImage",
]
"""A path; the content of an image file as bytes, or as a file that is open for reading bytes; an
array (H, W, 3) or (H, W) uint8 with RGB or grey values; or an image of Pillow."""

_EXPECTED = (
    "a path, the bytes of an image file, a binary file, an array (H, W, 3) uint8 or an image of "
    "Pillow"
)
# Longer names are no path on any system.
_MAX_PATH = 4096


class EncodedImage:
    """The content of an image file that is in memory, or in a file that the caller has opened.

    Parameters
    ----------
    content : bytes or binary file
        A file is read from its beginning if it can be sought, and otherwise once, from where it is.
        It stays open.
    name : bytes
        What the file says that it is called; empty for bytes.

    Attributes
    ----------
    name : bytes
        As given.
    size : int
        Number of bytes; of a file 0 until it is read.
    """

    def __init__(self, content: bytes | IO[bytes], name: bytes = b"") -> None:
        self.name = name
        self.size = len(content) if isinstance(content, bytes) else 0
        self._content = content
        # Of a file that cannot be read again.
        self._kept: object = None
        self._reading = threading.Lock()

    def read(self) -> BinaryIO:
        """The content, as a file that nobody else reads; several threads may call this at once.

        Raises
        ------
        ImageError
            If there is no content.
        ImageUnavailableError
            If the system refuses to read the file.
        """
        if isinstance(self._content, bytes):
            if _is_like_a_path(self._content):
                raise ImageError(
                    "not an image: bytes are the content of an image file; give a path as text"
                )
            return io.BytesIO(self._content)
        seekable = getattr(self._content, "seekable", None)
        try:
            with self._reading:
                data = self._kept
                if data is None:
                    again = seekable is not None and seekable()
                    if again:
                        self._content.seek(0)
                    data = self._content.read()
                    self._kept = None if again else data
        except Exception as error:  # an object that reads may raise anything
            if is_of_the_system(error):
                raise ImageUnavailableError(reason(error)) from error
            raise ImageError(f"cannot be read ({str(error) or type(error).__name__})") from error
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ImageError(f"reading it gave {type(data).__name__}; expected bytes")
        self.size = len(data)
        content = NamedBytes(data)
        content.name = self.name
        return content


class NamedBytes(io.BytesIO):
    """Bytes with the name of their file, by whose ending some camera files are told from others."""

    name = b""


@dataclass(frozen=True, eq=False)
class Combination:
    """Several images as one query, see `ImageIndex.query`.

    Parameters
    ----------
    members : sequence
        Images, or ids of the index where the query is given as ``like``.
    weights : sequence of float, optional
        Their weights, 1 by default. A weight below 0 leads away from what is like its image; -0.25
        is enough beside weights that add up to 1. One weight at least is above 0.
    """

    members: Sequence[Any]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.members, (str, bytes)) or not isinstance(self.members, Sized):
            raise InvalidInputError(
                f"members is {self.members!r}; expected a sequence of images, or of ids."
            )
        if not len(self.members):
            raise InvalidInputError("members is empty; expected at least one image.")
        as_weights(self.weights, len(self.members))


Source: TypeAlias = Union[bytes, EncodedImage, "Image.Image"]
"""A path as bytes, the content of a file, or an image of Pillow."""


def as_sources(images: object) -> list[Source]:
    """Images as sources; a single one counts as a list of one.

    Parameters
    ----------
    images : ImageLike or iterable of ImageLike
        One image, or any number of them; an array (n, H, W, 3) is n images, and a column of
        paths, such as a series of pandas, is a list of them.

    Raises
    ------
    InvalidInputError
        If something is not an image. Whether files can be read is found out later.
    """
    if _is_array(images):
        array = as_array(images, "images")
        # A column of paths is a list of them.
        is_list = array.ndim == 4 or (array.ndim == 1 and array.dtype.kind in "OUT")
        if not is_list:
            return [_as_source(array, "images", {})]
        images = array
    elif isinstance(images, Combination):
        raise InvalidInputError("images is a Combination, which is a query; expected images.")
    elif _is_single(images):
        return [_as_source(images, "images", {})]
    if not isinstance(images, Iterable):
        raise InvalidInputError(
            f"images is of type {type(images).__name__}; expected {_EXPECTED}, or a sequence of "
            f"these{_hint(images)}."
        )
    files: dict[int, EncodedImage] = {}
    return [_as_source(image, f"images[{number}]", files) for number, image in enumerate(images)]


def path_of(source: Source) -> bytes:
    """The path of an image; empty for one that does not come from a file."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, EncodedImage):
        return source.name
    return _name(getattr(source, "filename", ""))


def _is_single(image: object) -> bool:
    from PIL import Image

    return isinstance(
        image, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
    ) or hasattr(image, "read")


def _is_array(image: object) -> bool:
    """Whether something is an array: of NumPy, or a tensor that NumPy takes; no number is one."""
    return hasattr(image, "__array__") and not (_is_single(image) or isinstance(image, np.generic))


def _as_source(image: object, name: str, files: dict[int, EncodedImage]) -> Source:
    """One image; ``files`` has the open files so far, as one can be there twice."""
    from PIL import Image

    if isinstance(image, (str, os.PathLike)):
        path = os.fsencode(image)
        if b"\0" in path:
            raise InvalidInputError(f"{name} is a path with a NUL, which no path holds.")
        return path
    if isinstance(image, (Image.Image, EncodedImage)):
        return image
    if isinstance(image, (bytes, bytearray, memoryview)):
        return EncodedImage(bytes(image))
    if hasattr(image, "read"):
        return files.setdefault(id(image), _as_file(image, name))
    if _is_array(image):
        return _as_pixels(as_array(image, name), name)
    raise InvalidInputError(
        f"{name} is of type {type(image).__name__}; expected {_EXPECTED}{_hint(image)}."
    )


def _as_file(file: Any, name: str) -> EncodedImage:
    """A file that is open for reading bytes."""
    if isinstance(file, io.TextIOBase):
        raise InvalidInputError(
            f"{name} is a file that is open as text; expected one that is open as bytes (mode "
            "'rb')."
        )
    if inspect.iscoroutinefunction(file.read):
        raise InvalidInputError(
            f"{name} is of type {type(file).__name__}, whose method read has to be awaited; "
            "expected a binary file or bytes; give what it reads, or its file, such as the "
            "attribute `file` of an upload."
        )
    return EncodedImage(file, _name(getattr(file, "name", "")))


def _as_pixels(array: NDArray[Any], name: str) -> Image.Image:
    from PIL import Image

    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not is_image or array.size == 0:
        hint = ""
        if array.dtype.kind == "f" and array.ndim in (1, 2):
            hint = "; give feature vectors as vectors="
        elif array.ndim == 3 and array.shape[0] == 3 and not is_image:
            hint = "; give array.transpose(1, 2, 0)"
        raise InvalidInputError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; expected an array (H, W, 3) "
            f"of RGB values or (H, W) of grey values, uint8{hint}."
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _hint(image: object) -> str:
    """What to do with something that is no image, after the error."""
    if isinstance(image, (int, np.integer)) and not isinstance(image, bool):
        return "; give ids of images of the index as like="
    if isinstance(image, (float, np.floating)):
        return "; give feature vectors as vectors="
    return ""


def _name(name: object) -> bytes:
    """The name of a file; empty for one without a name, which can have a number instead."""
    return os.fsencode(name) if isinstance(name, (str, bytes, os.PathLike)) else b""


def _is_like_a_path(data: bytes) -> bool:
    """Whether bytes may be meant as a path: short, on one line, and no image begins like them."""
    is_line = 0 < len(data) < _MAX_PATH and not any(c in data for c in (b"\0", b"\n", b"\r"))
    return is_line and sniff(data[:SNIFF_BYTES]) is None
