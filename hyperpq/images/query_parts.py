"""What the words of a command stand for: single images with weights, on the web and on stdin."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

from hyperpq.errors import ImageError, ImageUnavailableError, InvalidInputError
from hyperpq.images.sources import Combination, EncodedImage
from hyperpq.images.url_image import UrlImage, is_url
from hyperpq.utils.forks import ForkSafeLock

MAX_STDIN = 256 << 20
"""Largest image on standard input, in bytes."""
PLUS, MINUS = 1.0, 0.25
"""Weights of images that are added and subtracted; more than the second leads astray."""

NamedImage: TypeAlias = str | EncodedImage


class StdinImage(EncodedImage):
    """The content of an image on standard input, which is read once, and then kept.

    Parameters
    ----------
    stdin : binary file
        Where it is read from.
    """

    def __init__(self, stdin: BinaryIO) -> None:
        super().__init__(stdin, b"-")
        self._known: bytes | None = None
        self._taking = ForkSafeLock()

    def read(self) -> BinaryIO:
        """The content.

        Raises
        ------
        ImageError
            If it is larger than an image that is read from stdin may be.
        ImageUnavailableError
            If stdin cannot be read.
        """
        assert not isinstance(self._content, bytes)
        with self._taking:
            if self._known is None:
                try:
                    self._known = self._content.read(MAX_STDIN + 1)
                except OSError as error:
                    raise ImageUnavailableError(f"cannot be read ({error.strerror})") from error
                self.size = len(self._known)
        if len(self._known) > MAX_STDIN:
            raise ImageError(f"more than {MAX_STDIN >> 20} MiB on stdin")
        return io.BytesIO(self._known)


def one_image(name: str, stdin: StdinImage | None) -> str | EncodedImage:
    """The image that a name stands for: a file, ``http(s)://``, or ``-`` for one on stdin.

    Raises
    ------
    InvalidInputError
        If it is ``-`` without an image on stdin, or no valid address.
    """
    if name == "-":
        if stdin is None:
            raise InvalidInputError(
                "- is a list of names on stdin, and one image is expected; give the option that "
                "says that the content of an image is on stdin (--stdin-image), or a file."
            )
        return stdin
    return UrlImage(name) if is_url(name) else name


def split_weight(name: str, default: float) -> tuple[str, float]:
    """A name and its weight, as ``cat.jpg:0.5`` has them; ``default`` without one.

    Raises
    ------
    InvalidInputError
        If the weight is not above 0, or the name is empty.
    """
    before, colon, after = name.rpartition(":")
    found, weight = name, default
    if colon and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", after, re.ASCII | re.I):
        found, weight = before, float(after)
    if not found or not 0 < weight < math.inf:
        raise InvalidInputError(
            f"{name!r} is no image with a weight; expected IMG or IMG:WEIGHT with a weight above "
            "0, such as cat.jpg:0.5."
        )
    return found, weight


@dataclass(frozen=True)
class QueryParts:
    """Images that each of several queries is combined with.

    Attributes
    ----------
    images : sequence of str or EncodedImage
        The images.
    weights : sequence of float
        Their weights, below 0 for those that are subtracted; a query itself has the weight 1.
    stdin : StdinImage, optional
        The image on stdin, which one of the queries or of these may be.
    """

    images: Sequence[NamedImage] = ()
    weights: Sequence[float] = ()
    stdin: StdinImage | None = None

    @classmethod
    def named(
        cls, plus: Sequence[str], minus: Sequence[str], stdin: BinaryIO | None = None
    ) -> QueryParts:
        """The images that words such as ``cat.jpg:0.5`` stand for.

        Parameters
        ----------
        plus, minus : sequence of str
            Images that are added and subtracted, with their weights, see `split_weight`.
        stdin : binary file, optional
            Has the content of the image that ``-`` is.
        """
        image = None if stdin is None else StdinImage(stdin)
        split = [split_weight(name, PLUS) for name in plus]
        split += [(name, -weight) for name, weight in (split_weight(n, MINUS) for n in minus)]
        return cls(
            [one_image(name, image) for name, _ in split], [weight for _, weight in split], image
        )

    def queries(self, images: Sequence[NamedImage]) -> Sequence[NamedImage | Combination]:
        """Each of these images, combined with those."""
        if not self.images:
            return images
        weights = [1.0, *self.weights]
        return [Combination([image, *self.images], weights) for image in images]
