"""`Guard`: who may ask, by which name, and what browsers may do with an answer."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperpq.server.settings import ServerSettings

OPEN_PATHS = frozenset(("/healthz", "/readyz", "/", "/explore"))
"""What is answered without a token: it says nothing about the index. Pages ask for one."""
_OPEN_FILES = "/static/"

# A page may load scripts, styles and images of this server alone, and nothing may embed it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NO_PAGE = "default-src 'none'; sandbox; frame-ancestors 'none'"
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_FOR_PAGES = [*_HEADERS, (b"content-security-policy", _POLICY.encode())]
_FOR_OTHERS = [*_HEADERS, (b"content-security-policy", _NO_PAGE.encode())]


class Guard:
    """Refuses requests without the token, by a foreign name or from a foreign page.

    A page of the internet can send a browser to a server of this machine, by a name that it makes
    stand for 127.0.0.1 (DNS rebinding). So a server on a loopback address answers to names of its
    own only. A form of a foreign page gives itself away by its header ``Origin``. No answer has
    headers of CORS, so no foreign page can read one.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    settings : ServerSettings
        The token, and the names of the server.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._token = None if settings.token is None else _digest(settings.token)
        self._names: frozenset[str] | None = None
        if settings.is_local:
            names = {"localhost", settings.host, *settings.allowed_hosts}
            self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with_headers(message.get("headers", ()))
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        await (self._app if refusal is None else refusal)(scope, receive, send_with_headers)

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if self._names is not None and not self._is_own(_hostname(f"//{host}")):
            return _refused(421, "the header Host names another server; expected localhost")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return _refused(403, "the request comes from a page of another server")
        is_open = path in OPEN_PATHS or path.startswith(_OPEN_FILES)
        if self._token is not None and not is_open:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(
                _digest(given.strip()), self._token
            ):
                return _refused(
                    401,
                    "expected the header Authorization: Bearer TOKEN with the token of the server",
                    {"www-authenticate": "Bearer"},
                )
        return None

    def _is_own(self, name: str) -> bool:
        assert self._names is not None
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _digest(token: str) -> bytes:
    """What tokens are compared by: of one length, whatever is sent."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _hostname(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


def _netloc(address: str) -> str:
    """Host and port of an address; empty if it is none."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


def _with_headers(given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, with those that say what a browser may do with it."""
    headers = list(given)
    names = dict(headers)
    is_page = names.get(b"content-type", b"").startswith(b"text/html")
    headers += _FOR_PAGES if is_page else _FOR_OTHERS
    if b"cache-control" not in names:
        headers.append((b"cache-control", b"no-store"))
    return headers


def _refused(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": f"{detail}."}, status, headers)
