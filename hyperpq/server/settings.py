"""`ServerSettings`: where a server listens, who may use it, and how much it takes on."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from hyperpq.errors import InvalidInputError
from hyperpq.utils.validation import as_count, as_number

_LEAST_TOKEN = 16
# What `Authorization: Bearer` can carry (RFC 6750, section 2.1).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True)
class Limits:
    """How much a server takes on.

    Attributes
    ----------
    upload_bytes : int
        Largest body of a request.
    held_bytes : int
        Bytes of all bodies that are in memory at once; further ones are refused until some are
        done.
    megapixels : float
        Largest image that is decoded; the index may have a smaller limit.
    k : int
        Largest number of results.
    batch : int
        Largest number of queries that share a run of the network and a scan.
    queue : int
        Number of queries that wait for their turn; further ones are refused.
    connections : int
        Number of open connections; each takes a descriptor, of which a process often has 1,024.
    head_seconds, body_seconds : float
        How long the head and the body of a request may take to arrive.
    answer_seconds : float
        How long a query waits for its answer.
    write_seconds : float
        How long a client may read nothing of an answer.
    stop_seconds : float
        How long running requests have when the server stops.
    """

    upload_bytes: int = 20 << 20
    held_bytes: int = 256 << 20
    megapixels: float = 100.0
    k: int = 1000
    batch: int = 64
    queue: int = 256
    connections: int = 512
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    answer_seconds: float = 30.0
    write_seconds: float = 30.0
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("upload_bytes", "held_bytes", "k", "batch", "queue", "connections"):
            as_count(getattr(self, name), name)
        for name in ("megapixels", *(name for name in vars(self) if name.endswith("_seconds"))):
            if not as_number(getattr(self, name), name) > 0:
                raise InvalidInputError(
                    f"{name} is {getattr(self, name)!r}; expected a number above 0."
                )


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and who may use it.

    Attributes
    ----------
    host : str
        Address or name of the interface. On a loopback address only this machine reaches the
        server; any other needs a token.
    port : int
        0 for a free one.
    token : str, optional
        What requests have to name, as ``Authorization: Bearer TOKEN``; at least 16 characters.
    allowed_hosts : tuple of str
        Names by which a server on a loopback address may be addressed, beside ``localhost``, the
        loopback addresses and ``host``; such as the name that a reverse proxy passes on.
    follow_links : bool
        Whether images are served that the index has found by symbolic links, see `IndexedFiles`.
    remote_images : bool
        Whether images in object storage are served, see `IndexedFiles`.
    limits : Limits
        How much it takes on.

    Raises
    ------
    InvalidInputError
        If a token is missing or is none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    follow_links: bool = False
    remote_images: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        as_count(self.port, "port", 0, 65535)
        if self.token is None:
            if not self.is_local:
                raise InvalidInputError(
                    f"host is {self.host!r}, which other machines reach, and there is no token; "
                    "expected a token that requests have to name, such as one that `openssl rand "
                    "-hex 32` prints; give it in the variable HYPERPQ_TOKEN or a file."
                )
        elif len(self.token) < _LEAST_TOKEN or not _TOKEN.fullmatch(self.token):
            raise InvalidInputError(
                f"the token has {len(self.token)} characters; expected at least {_LEAST_TOKEN} "
                "letters, digits or any of ._~+/-, such as `openssl rand -hex 32` prints."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return all(ipaddress.ip_address(address).is_loopback for _, address in self.addresses())

    def addresses(self) -> list[tuple[int, str]]:
        """Families and addresses that `host` stands for.

        Raises
        ------
        InvalidInputError
            If it stands for none.
        """
        try:
            found = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError):
            raise InvalidInputError(
                f"host is {self.host!r}; expected an address or the name of this machine."
            ) from None
        return [(family, str(place[0]).partition("%")[0]) for family, *_, place in found]

    def url(self, port: int) -> str:
        """Address of the server at a port, for people."""
        return f"http://[{self.host}]:{port}" if ":" in self.host else f"http://{self.host}:{port}"
