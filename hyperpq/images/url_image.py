"""`UrlImage`: an image that a server of the web has, fetched with limits when it is first read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlsplit

from hyperpq.errors import ImageError, InvalidInputError
from hyperpq.images.sources import EncodedImage, NamedBytes
from hyperpq.utils.forks import ForkSafeLock

SCHEMES = ("http", "https")
"""What the address of an image begins with; no other scheme is ever opened."""

_LONGEST = 2048


@dataclass(frozen=True)
class FetchLimits:
    """What a server can make a query take.

    Attributes
    ----------
    max_bytes : int
        Larger images are refused, those whose size is not announced as soon as they are.
    timeout : float
        Seconds for all of it, redirects included.
    """

    max_bytes: int = 64 << 20
    timeout: float = 30.0


def is_url(name: str) -> bool:
    """Whether a name is the address of an image on the web: ``http://`` or ``https://``."""
    return name.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


class UrlImage(EncodedImage):
    """The content of an image on the web, as a query.

    It is fetched once, when it is first read; nothing is sent before. A redirect may lead to
    another host, but not from ``https`` to ``http``. Neither cookies nor passwords are sent.

    Parameters
    ----------
    url : str
        Its address, with the scheme http or https.
    limits : FetchLimits
        Largest size and longest time.

    Raises
    ------
    InvalidInputError
        If it is no address of that kind.
    """

    def __init__(self, url: str, limits: FetchLimits | None = None) -> None:
        _check(url)
        super().__init__(b"", url.encode("utf-8", "surrogateescape"))
        self._url, self._limits = url, limits or FetchLimits()
        self._fetching = ForkSafeLock()
        self._fetched: bytes | ImageError | None = None

    def read(self) -> BinaryIO:
        """The content, which is fetched by the first call.

        Raises
        ------
        ImageUnavailableError
            If the server does not answer, answers with an error, or too late.
        ImageError
            If the content is too large.
        """
        with self._fetching:
            if self._fetched is None:
                # What it imports takes longer than the table of a query.
                from hyperpq.images.fetching import fetch

                try:
                    self._fetched = fetch(self._url, self._limits)
                except ImageError as error:
                    self._fetched = error
                else:
                    self.size = len(self._fetched)
            if isinstance(self._fetched, ImageError):
                raise self._fetched
            content = NamedBytes(self._fetched)
        content.name = urlsplit(self._url).path.encode()
        return content


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        raise InvalidInputError(f"{url!r} is no valid address of an image.") from None
    if parts.scheme.lower() not in SCHEMES or not parts.hostname or not port_is_valid:
        raise InvalidInputError(
            f"{url!r} is no address of an image; expected one that begins with https:// or http://."
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError(
            f"the address at {parts.hostname} has a user or a password, which would be sent to a "
            "server and shown in results; expected an address without them."
        )
    if len(url) > _LONGEST or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise InvalidInputError(
            f"the address at {parts.hostname} is longer than {_LONGEST:,} characters or has some "
            "that no address holds; expected ASCII without spaces, as a browser copies it."
        )
