"""`SearchRoute`: searches, answered before FastAPI looks for a route.

The scan of a million codes takes a third of a millisecond, and FastAPI's routing, its dependencies
and its stacks of contexts as long again. FastAPI has the same route, for its document.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hyperpq.server.problems import problem
from hyperpq.server.service import Service


@dataclass(frozen=True)
class _Route:
    """What `Measured` calls a route."""

    path: str


class SearchRoute:
    """Answers ``POST /search``, and passes everything else on.

    Parameters
    ----------
    app : ASGI application
        What has the other routes.
    service : Service
        What searches.
    """

    _route = _Route("/search")

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        is_search = scope["type"] == "http" and scope["path"] == self._route.path
        if not is_search or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        try:
            content = await self._service.search(Request(scope, receive))
        except Exception as error:
            response = problem(error)
        else:
            response = Response(content, media_type="application/json")
        await response(scope, receive, send)
