"""`fetch`: the content of an address on the web, within limits of size, time and redirects."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import urlsplit

from hyperpq._version import __version__
from hyperpq.errors import ImageError, ImageUnavailableError
from hyperpq.images.url_image import SCHEMES, FetchLimits

_MAX_REDIRECTS = 5
_CHUNK = 1 << 16


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, and none to another scheme or to an unprotected one."""

    max_redirections = _MAX_REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme.lower()
        if scheme not in SCHEMES or (req.type == "https" and scheme != "https"):
            raise ImageUnavailableError(f"redirected to an address with the scheme {scheme!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """That of urllib for these schemes alone: no file:, ftp: or data:, no cookies or passwords."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def fetch(url: str, limits: FetchLimits) -> bytes:
    """The content of an address of http or https.

    Raises
    ------
    ImageUnavailableError
        If the server does not answer, answers with an error, or too late.
    ImageError
        If the content is too large.
    """
    found: list[bytes | ImageError] = []

    def work() -> None:
        try:
            found.append(_read(url, limits))
        except ImageError as error:
            found.append(error)
        except urllib.error.HTTPError as error:
            error.close()
            said = _words(error.reason)
            found.append(ImageUnavailableError(f"the server answered {error.code} ({said})"))
        except urllib.error.URLError as error:
            found.append(ImageUnavailableError(f"cannot be fetched ({_words(error.reason)})"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            found.append(ImageUnavailableError(f"cannot be fetched ({_words(error)})"))

    # The time limit of a socket is one for each of its operations: a server that sends a byte now
    # and then would keep a thread for ever, but not the caller.
    thread = threading.Thread(target=work, name="fetch", daemon=True)
    thread.start()
    thread.join(limits.timeout)
    if not found:
        raise ImageUnavailableError(f"not fetched within {limits.timeout:g} seconds")
    if isinstance(found[0], ImageError):
        raise found[0]
    return found[0]


def _read(url: str, limits: FetchLimits) -> bytes:
    too_large = f"more than the limit of {limits.max_bytes / 2**20:g} MiB for an image of the web"
    end = time.monotonic() + limits.timeout
    request = urllib.request.Request(
        url, headers={"User-Agent": f"hyperpq/{__version__}", "Accept": "image/*"}
    )
    with _opener().open(request, timeout=limits.timeout) as response:
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > limits.max_bytes:
            raise ImageError(too_large)
        content = bytearray()
        while chunk := response.read(_CHUNK):
            content += chunk
            if len(content) > limits.max_bytes:
                raise ImageError(too_large)
            if time.monotonic() > end:
                raise ImageUnavailableError(f"not fetched within {limits.timeout:g} seconds")
        if announced.isdecimal() and len(content) < int(announced):
            raise ImageUnavailableError("the connection ended too early")
    return bytes(content)


def _words(reason: object) -> str:
    """An error of the network in a few words."""
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split()).lower().rstrip(".")[:200]
