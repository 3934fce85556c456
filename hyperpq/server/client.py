"""`Client` and `AsyncClient`: searches by a server, with the answers of `ImageIndex.query`."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from hyperpq.errors import InvalidInputError, ServerError, UnknownIdError
from hyperpq.images.results import Answer, QueryPart, Result
from hyperpq.server.client_search import Asked, Call, Image, SearchOptions
from hyperpq.utils.imports import need

if TYPE_CHECKING:
    import httpx2
    from typing_extensions import Self, Unpack

DEFAULT_URL = "http://127.0.0.1:8000"
# What a server that is busy is asked again.
_RETRIES = 3


@dataclass(frozen=True)
class IndexInfo:
    """What the index of a server is.

    Attributes
    ----------
    kind : str
        ``images`` or ``vectors``.
    rows : int
        Number of rows.
    snapshot : int
        Grows with each change of the index.
    d : int
        Numbers of a vector.
    code_bytes : int
        Bytes of a code.
    nlist : int
        Number of cells; 0 if there are none.
    recall : float or None
        The recall of searches that ask for none; None for exact ones.
    attributes : tuple of str
        Names that a condition can use.
    backbone : str or None
        Network of an index of images.
    max_k : int
        Largest number of results.
    version : str
        Version of hyperpq on the server.
    """

    kind: str
    rows: int
    snapshot: int
    d: int
    code_bytes: int
    nlist: int
    recall: float | None
    attributes: tuple[str, ...]
    backbone: str | None
    max_k: int
    version: str


class _Calls:
    """What both clients ask, and what they make of answers."""

    def __init__(
        self, url: str = DEFAULT_URL, *, token: str | None = None, timeout: float = 60.0
    ) -> None:
        self.url = url.rstrip("/")
        self._httpx = need("httpx2", "client", "clients of a server")
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {} if token is None else {"authorization": f"Bearer {token}"},
            "timeout": timeout,
            # A proxy of the environment is for the internet, and would get the token.
            "trust_env": False,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _unreachable(self, error: Exception) -> ServerError:
        reason = str(error) or type(error).__name__
        return ServerError(f"{self.url} does not answer ({reason}); start it with `hyperpq serve`.")

    def _checked(self, response: httpx2.Response) -> httpx2.Response:
        """An answer that is no error."""
        if response.is_success:
            return response
        try:
            said = str(response.json()["detail"])
        except (ValueError, KeyError, TypeError):
            said = f"the answer has the status {response.status_code}."
        if response.status_code == 404:
            raise UnknownIdError(said)
        if response.status_code in (400, 413, 415, 422):
            raise InvalidInputError(said)
        raise ServerError(f"{self.url}: {said}", response.status_code)


def _answer(value: Mapping[str, Any]) -> Answer:
    query = "" if value["query"] is None else str(value["query"])
    parts = tuple(
        QueryPart(_path(part), part["weight"], part.get("id")) for part in value.get("parts") or ()
    )
    return Answer(query, [_result(result) for result in value["results"]], parts=parts)


def _path(value: Mapping[str, Any]) -> str:
    """A path, which may not be UTF-8."""
    if lossy := value.get("path_bytes"):
        return os.fsdecode(base64.b64decode(lossy))
    return value.get("path") or ""


def _result(value: Mapping[str, Any]) -> Result:
    return Result(
        value["rank"],
        value["distance"],
        value.get("similarity"),
        value["id"],
        _path(value),
        value.get("attributes") or {},
    )


def _info(value: Mapping[str, Any]) -> IndexInfo:
    names = IndexInfo.__dataclass_fields__
    known = {name: value.get(name) for name in names}
    known |= {"attributes": tuple(value["attributes"]), "nlist": value.get("nlist", 0)}
    return IndexInfo(**known)  # type: ignore[arg-type]


def _wait(response: httpx2.Response) -> float | None:
    """Seconds until a busy server may be asked again; None if it is not busy."""
    if response.status_code != 503:
        return None
    after = response.headers.get("retry-after", "")
    return float(after) if after.isdecimal() else None


class Client(_Calls):
    """Searches by a server that `hyperpq serve` runs; a context manager, or closed by `close`.

    Parameters
    ----------
    url : str
        Address of the server.
    token : str, optional
        The token of the server.
    timeout : float
        Seconds to wait for an answer.

    Raises
    ------
    MissingDependencyError
        If httpx2 is not installed (the extra ``client``).

    Notes
    -----
    Threads can share a client. A server that is busy is asked again up to three times, after the
    time that it names. Times among the attributes of results are text, as of ISO 8601.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, token: str | None = None, timeout: float = 60.0
    ) -> None:
        super().__init__(url, token=token, timeout=timeout)
        self._client: httpx2.Client = self._httpx.Client(**self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def search(
        self,
        image: Image | Sequence[Image] | None = None,
        *,
        id: int | Sequence[int] | None = None,
        vector: ArrayLike | None = None,
        weights: Sequence[float] | None = None,
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> Answer:
        """Find what is like an image, a row of the index or a vector.

        Parameters
        ----------
        image : path-like, bytes or binary file, or a list of these, optional
            An image, which is uploaded. A path is one of this machine. The images of a list are one
            query, for what is like all of them, as a `Combination`.
        id : int or sequence of int, optional
            Id of a row, instead of an image; or several, which are one query, also together with
            images.
        vector : array_like, shape (d,), optional
            Features by the network of an index of images, or a vector like those of the index.
        weights : sequence of float, optional
            Weights of the images, and then of the ids; 1 by default, and below 0 for what results
            are to be less like, see `Combination`.
        k : int
            Number of results.
        **options
            ``where``, ``max_distance``, ``min_similarity``, ``existing``, ``nprobe`` and ``recall``
            as in `ImageIndex.query`, ``exclude_self`` for ids, and ``refine`` as in `hyperpq
            query`.

        Returns
        -------
        Answer
            As `ImageIndex.query` gives it. Results of an index of vectors have no path.

        Raises
        ------
        InvalidInputError
            If a value is not possible, or an image cannot be used.
        UnknownIdError
            If there is no such row.
        ServerError
            If the server does not answer, is busy, or refuses the token.
        """
        call = Asked(image, id, vector, weights).call(k, options)
        return _answer(self._send(call).json())

    def image(self, id: int) -> bytes:
        """The file of an image; `UnknownIdError` if there is none."""
        return self._send(Call("GET", f"/images/{int(id)}")).content

    def thumbnail(self, id: int, size: int = 256) -> bytes:
        """An image as a small WebP with a longer side of at most ``size`` pixels."""
        return self._send(Call("GET", f"/thumbnails/{int(id)}", {"params": {"size": size}})).content

    def info(self) -> IndexInfo:
        """What the index of the server is."""
        return _info(self._send(Call("GET", "/index")).json())

    def _send(self, call: Call) -> httpx2.Response:
        for left in range(_RETRIES, -1, -1):
            try:
                response = self._client.request(call.method, call.path, **call.options)
            except self._httpx.HTTPError as error:
                raise self._unreachable(error) from error
            seconds = _wait(response)
            if seconds is None or not left:
                break
            time.sleep(seconds)
        return self._checked(response)


class AsyncClient(_Calls):
    """`Client` for asyncio: the same methods, to be awaited; an async context manager."""

    def __init__(
        self, url: str = DEFAULT_URL, *, token: str | None = None, timeout: float = 60.0
    ) -> None:
        super().__init__(url, token=token, timeout=timeout)
        self._client: httpx2.AsyncClient = self._httpx.AsyncClient(**self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def search(
        self,
        image: Image | Sequence[Image] | None = None,
        *,
        id: int | Sequence[int] | None = None,
        vector: ArrayLike | None = None,
        weights: Sequence[float] | None = None,
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> Answer:
        """Find what is like an image, a row of the index or a vector; see `Client.search`."""
        call = Asked(image, id, vector, weights).call(k, options)
        return _answer((await self._send(call)).json())

    async def image(self, id: int) -> bytes:
        """The file of an image; see `Client.image`."""
        return (await self._send(Call("GET", f"/images/{int(id)}"))).content

    async def thumbnail(self, id: int, size: int = 256) -> bytes:
        """A small WebP of an image; see `Client.thumbnail`."""
        call = Call("GET", f"/thumbnails/{int(id)}", {"params": {"size": size}})
        return (await self._send(call)).content

    async def info(self) -> IndexInfo:
        """What the index of the server is."""
        return _info((await self._send(Call("GET", "/index"))).json())

    async def _send(self, call: Call) -> httpx2.Response:
        for left in range(_RETRIES, -1, -1):
            try:
                response = await self._client.request(call.method, call.path, **call.options)
            except self._httpx.HTTPError as error:
                raise self._unreachable(error) from error
            seconds = _wait(response)
            if seconds is None or not left:
                break
            await asyncio.sleep(seconds)
        return self._checked(response)
