"""Bodies of requests: read with limits on bytes and time, and taken apart."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from hyperpq.server.batcher import BusyError
from hyperpq.server.schemas import MAX_PARTS
from hyperpq.server.settings import Limits

T = TypeVar("T")
# Fields of a form that are no files.
_MAX_FIELDS, _MAX_FIELD_BYTES = 16, 1 << 16


class RefusedError(Exception):
    """A body that is not taken.

    Attributes
    ----------
    status : int
        Status of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Held:
    """Counts the bytes of bodies that are in memory.

    Parameters
    ----------
    limit : int
        How many there may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self.bytes = limit, 0

    def take(self, count: int) -> None:
        """Count further bytes; `BusyError` if these are too many."""
        if self.bytes + count > self._limit:
            raise BusyError(f"uploads of {self._limit >> 20} MiB are in memory already")
        self.bytes += count

    def release(self, count: int) -> None:
        """Count bytes no more."""
        self.bytes -= count


class Body:
    """The body of one request; a context manager that counts its bytes until it ends.

    Parameters
    ----------
    request : Request
        The request.
    limits : Limits
        How large it may be, and how long it may take.
    held : Held
        What all bodies have.
    """

    def __init__(self, request: Request, limits: Limits, held: Held) -> None:
        self._request, self._limits, self._held, self._bytes = request, limits, held, 0

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.release(self._bytes)

    async def content(self) -> bytes:
        """The whole body.

        Raises
        ------
        RefusedError, BusyError
        """
        return await self._in_time(self._joined())

    async def form(self) -> tuple[list[tuple[bytes, str]], dict[str, str]]:
        """Content and name of each file in a form, and its other fields.

        Raises
        ------
        RefusedError, BusyError
        """
        try:
            form = await self._in_time(
                _InMemory(self._request.headers, self._chunks(), self._limits.upload_bytes).parse()
            )
        except MultiPartException as error:
            raise RefusedError(400, f"the form cannot be read: {error.message}") from None
        # What another exception would be, which damaged headers of a part can raise.
        except (KeyError, ValueError, LookupError) as error:
            raise RefusedError(400, "the form cannot be read") from error
        return await _parts(form)

    async def _joined(self) -> bytes:
        return b"".join([chunk async for chunk in self._chunks()])

    async def _chunks(self) -> AsyncIterator[bytes]:
        most = self._limits.upload_bytes
        declared = self._request.headers.get("content-length", "0")
        if declared.isascii() and declared.isdecimal() and int(declared) > most:
            raise self._too_large()
        async for chunk in self._request.stream():
            self._held.take(len(chunk))
            self._bytes += len(chunk)
            if self._bytes > most:
                raise self._too_large()
            yield chunk

    def _too_large(self) -> RefusedError:
        most = self._limits.upload_bytes
        return RefusedError(413, f"the body is too large; expected at most {most:,} bytes")

    async def _in_time(self, reading: Coroutine[Any, Any, T]) -> T:
        # `asyncio.timeout` comes with Python 3.11, and a scope of anyio takes as long as all else
        # that is done with a small body.
        seconds, task, is_late = self._limits.body_seconds, asyncio.current_task(), False
        assert task is not None

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(seconds, give_up)
        try:
            return await reading
        except asyncio.CancelledError:
            if not is_late:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            raise RefusedError(
                408, f"the body did not arrive within {seconds:g} seconds; send it again"
            ) from None
        finally:
            timer.cancel()


class _InMemory(MultiPartParser):
    """A parser that writes no temporary files, as the file system may be read-only."""

    def __init__(self, headers: Headers, stream: AsyncIterator[bytes], most: int) -> None:
        super().__init__(
            headers,
            stream,  # type: ignore[arg-type]
            max_files=MAX_PARTS,
            max_fields=_MAX_FIELDS,
            max_part_size=_MAX_FIELD_BYTES,
        )
        self.spool_max_size = most + 1


async def _parts(form: FormData) -> tuple[list[tuple[bytes, str]], dict[str, str]]:
    fields: dict[str, str] = {}
    files: list[UploadFile] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "image":
                raise RefusedError(
                    422, f"the form has a file in the field {name!r}; expected the field 'image'"
                )
            files.append(value)
        elif name in fields:
            raise RefusedError(422, f"the form has the field {name!r} twice; expected it once")
        else:
            fields[name] = value
    if not files:
        raise RefusedError(422, "the form has no file; expected an image in the field 'image'")
    try:
        return [(await file.read(), file.filename or "") for file in files], fields
    finally:
        for file in files:
            await file.close()
