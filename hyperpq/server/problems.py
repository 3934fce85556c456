"""`problem`: the answer to a request that fails, by the error that it fails with."""

from __future__ import annotations

import logging
import reprlib
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from hyperpq.errors import HyperPQError, InvalidInputError, UnknownIdError
from hyperpq.server.batcher import BusyError
from hyperpq.server.files import NoImageError
from hyperpq.server.schemas import KINDS, Problem
from hyperpq.server.uploads import RefusedError

log = logging.getLogger(__name__)

ERRORS = (
    BusyError,
    RefusedError,
    ValidationError,
    RequestValidationError,
    NoImageError,
    HyperPQError,
    HTTPException,
    ClientDisconnect,
    Exception,
)
"""What `problem` has answers to."""

_MEANING = {
    400: "The body cannot be read.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another server.",
    404: "There is no such row, or no file of it.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body has another type.",
    416: "The file has none of the bytes that the header Range names.",
    421: "The header Host names another server.",
    422: "A value is not possible, or the upload is no image.",
    500: "The index cannot be read.",
    503: "There is no room now; the header Retry-After says when to try again.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Statuses as FastAPI documents them."""
    return {status: {"model": Problem, "description": _MEANING[status]} for status in statuses}


def problem(error: Exception) -> Response:
    """The answer to a request that fails with an error; what nobody foresaw is logged."""
    if isinstance(error, BusyError):
        return _answer(503, f"{error}; try again in a moment", {"retry-after": "1"})
    if isinstance(error, RefusedError):
        # The rest of the body is not read.
        return _answer(error.status, str(error), {"connection": "close"})
    if isinstance(error, ValidationError | RequestValidationError):
        return _answer(422, _sentence(error.errors()[0]))
    if isinstance(error, NoImageError | UnknownIdError):
        return _answer(404, str(error))
    if isinstance(error, InvalidInputError):
        return _answer(422, str(error))
    if isinstance(error, HTTPException):
        return _answer(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # nobody reads it
    if isinstance(error, HyperPQError):
        log.error("%s", error)
        return _answer(500, "the index or its network cannot be used; the server's log says why")
    log.error("A request failed.", exc_info=error)
    return _answer(500, "the server made a mistake; its log says which")


def _answer(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    text = detail if detail.endswith(".") else f"{detail}."
    return JSONResponse({"detail": text}, status, headers)


def _sentence(error: Any) -> str:
    """What is wrong with a value, from an error of pydantic."""
    place = [str(part) for part in error["loc"] if part not in ("path", "query")]
    # The kind of a search is no part of its JSON.
    name = ".".join(part for part in place if part not in KINDS.values())
    said = error["msg"]
    said = said[:1].lower() + said[1:]
    if error["type"] == "missing" or not name:
        return f"{name or 'the body'}: {said}"
    return f"{name} is {reprlib.repr(error['input'])}; {said}"
