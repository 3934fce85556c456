"""`create_app`: the routes of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi import Path as InPath
from fastapi import Query as InQuery
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from hyperpq import gallery
from hyperpq._version import __version__
from hyperpq.gallery.markup import asset
from hyperpq.gallery.thumbnails import DEFAULT_SIZE, MAX_SIZE, MIN_SIZE, Thumbnail
from hyperpq.server.api_page import api_page
from hyperpq.server.explore_routes import add_exploring
from hyperpq.server.files import MEDIA_TYPES
from hyperpq.server.metrics import CONTENT_TYPE, Measured
from hyperpq.server.problems import ERRORS, documented, problem
from hyperpq.server.ranges import asked_range
from hyperpq.server.schemas import (
    LARGEST_ID,
    MAX_PARTS,
    Column,
    Health,
    IndexFacts,
    SampleImage,
    SearchAnswer,
    SearchById,
    SearchByParts,
    SearchByVector,
    SearchForm,
)
from hyperpq.server.search_route import SearchRoute
from hyperpq.server.security import Guard
from hyperpq.server.served_index import ServedIndex
from hyperpq.server.service import Service
from hyperpq.server.settings import ServerSettings

STATIC = Path(__file__).with_name("static")
"""What is served below ``/static``: files of pages."""
_SHARED = Path(gallery.__file__).with_name("templates")
SHARED = (
    ("gallery.css", _SHARED / "page.css", "text/css"),
    ("map.css", _SHARED / "map.css", "text/css"),
    ("map.js", _SHARED / "map.js", "text/javascript"),
)
"""Files that pages have in common with those that `hyperpq query` and `hyperpq map` write."""
# Files of images are seen again and again; their address stays, and what it shows seldom changes.
_CACHE = "private, max-age=300"
_PART = {"description": "The bytes that the header Range names."}
_ANEW = {"cache-control": "no-cache"}

Id = Annotated[int, InPath(ge=0, le=LARGEST_ID, description="Id of an image, as results have it.")]
Count = Annotated[int, InQuery(ge=1, le=1000, description="Number of images, at most.")]
Size = Annotated[
    int, InQuery(ge=MIN_SIZE, le=MAX_SIZE, description="Longer side in pixels, at most.")
]


def create_app(served: ServedIndex, settings: ServerSettings | None = None) -> ASGIApp:
    """The server as an ASGI application, for a server of your own.

    Parameters
    ----------
    served : ServedIndex
        The index.
    settings : ServerSettings, optional
        Who may use it, and how much it takes on. The host and the port say by which names it is
        addressed; where it listens is for the server that runs it.

    Returns
    -------
    ASGI application
        With a lifespan, which loads the network and shows new snapshots of the index.
    """
    settings = settings or ServerSettings()
    service = Service(served, settings)
    api = FastAPI(
        title="hyperpq",
        version=__version__,
        description="Searches in an index of " + served.kind + ".",
        docs_url=None,
        redoc_url=None,
        lifespan=service.running,
        responses=documented(401, 403, 421) if settings.token else documented(403, 421),
    )
    _add_searches(api, service)
    _add_state(api, service)
    if served.kind == "images":
        _add_images(api, service)
        add_exploring(api, service)
    _add_pages(api, settings, served.kind)
    for kind in ERRORS:
        api.add_exception_handler(kind, _answer)
    return Measured(Guard(SearchRoute(api, service), settings), service.metrics)


async def _answer(request: HttpRequest, error: Exception) -> Response:
    return problem(error)


def _add_searches(api: FastAPI, service: Service) -> None:
    @api.post(
        "/search",
        response_class=Response,
        responses={
            200: {"model": SearchAnswer, "description": "The results."},
            **documented(400, 404, 408, 413, 415, 422, 500, 503),
        },
        summary="Find what is like an image, a row of the index or a vector.",
    )
    async def search(request: HttpRequest) -> Response:
        return Response(await service.search(request), media_type="application/json")


def _add_state(api: FastAPI, service: Service) -> None:
    @api.get("/index", summary="What the index is.")
    async def index() -> IndexFacts:
        return service.facts()

    @api.get("/columns", responses=documented(503), summary="What conditions can name.")
    async def columns() -> list[Column]:
        return await service.columns()

    @api.get("/healthz", summary="Whether the process answers.")
    async def healthz() -> Health:
        return Health(status="ok")

    @api.get(
        "/readyz",
        responses=documented(503),
        summary="Whether searches are answered at once: the network is loaded.",
    )
    async def readyz() -> Health:
        if not service.is_ready:
            raise HTTPException(503, "the network is not loaded")
        return Health(status="ready")

    @api.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        summary="Numbers for Prometheus.",
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


def _add_images(api: FastAPI, service: Service) -> None:
    binary = {"schema": {"type": "string", "format": "binary"}}

    @api.get(
        "/sample",
        responses=documented(422, 503),
        summary="Images of the index, spread over all its ids.",
    )
    async def sample(n: Count = 60) -> list[SampleImage]:
        return await service.sample(n)

    @api.get(
        "/images/{id}",
        response_class=Response,
        responses={
            200: {"content": dict.fromkeys(MEDIA_TYPES.values(), binary)},
            206: _PART,
            304: {"description": "The file is the one that the client has."},
            **documented(404, 416, 422, 503),
        },
        summary="The file of an image.",
    )
    async def image(id: Id, request: HttpRequest) -> Response:
        found, blocks = await service.image(id)
        try:
            part, status, headers = _part_of(request, found.size, found.version)
        except HTTPException:
            found.file.close()
            raise
        if status == 304 or request.method == "HEAD":
            found.file.close()
            return Response(status_code=status, headers=headers, media_type=found.media_type)
        return StreamingResponse(
            blocks(part), status_code=status, headers=headers, media_type=found.media_type
        )

    @api.get(
        "/thumbnails/{id}",
        response_class=Response,
        responses={
            200: {"content": {Thumbnail.media_type: binary}},
            206: _PART,
            304: {"description": "The thumbnail is the one that the client has."},
            **documented(404, 416, 422, 503),
        },
        summary="An image, made small.",
    )
    async def thumbnail(id: Id, request: HttpRequest, size: Size = DEFAULT_SIZE) -> Response:
        version, content = await service.thumbnail(id, size, _known(request))
        if content is None:
            headers = {"etag": f'"{version}"', "cache-control": _CACHE}
            return Response(status_code=304, headers=headers)
        part, status, headers = _part_of(request, len(content), version)
        shown = b"" if request.method == "HEAD" else content[part.start : part.stop]
        return Response(shown, status_code=status, headers=headers, media_type=Thumbnail.media_type)


class _Files(StaticFiles):
    """Files that a browser keeps, and asks for by their version each time."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers.update(_ANEW)
        return response


def _part_of(request: HttpRequest, size: int, version: str) -> tuple[range, int, dict[str, str]]:
    """The bytes that a request asks for, the status of the answer and its headers."""
    headers = {"etag": f'"{version}"', "cache-control": _CACHE}
    if _known(request) == version:
        return range(0), 304, headers
    part = asked_range(request, size, version)
    headers["accept-ranges"] = "bytes"
    headers["content-length"] = str(size if part is None else len(part))
    if part is None:
        return range(size), 200, headers
    headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return part, 206, headers


def _known(request: HttpRequest) -> str:
    """The version that a client has."""
    return request.headers.get("if-none-match", "").removeprefix("W/").strip('"')


def _add_pages(api: FastAPI, settings: ServerSettings, kind: str) -> None:
    document = _document(api, settings)
    page = api_page(document)
    api.openapi = lambda: document  # type: ignore[method-assign]

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page)

    @api.get("/", include_in_schema=False)
    async def start() -> Response:
        # Vectors have nothing to look at.
        if kind != "images":
            return RedirectResponse("/docs")
        return FileResponse(STATIC / "page.html", media_type="text/html", headers=_ANEW)

    if kind == "images":
        views = STATIC.joinpath("explore.html").read_text("utf-8")
        views = views.replace("<!-- map -->", asset("map.html"))

        @api.get("/explore", include_in_schema=False)
        async def explore() -> HTMLResponse:
            return HTMLResponse(views, headers=_ANEW)

    for name, file, media_type in SHARED:
        _add_file(api, f"/static/{name}", file, media_type)

    api.mount("/static", _Files(directory=STATIC), name="static")
    for route in api.routes:
        # Not in the document: the answer is that of GET, without its body.
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            route.methods.add("HEAD")


def _add_file(api: FastAPI, address: str, file: Path, media_type: str) -> None:
    @api.get(address, include_in_schema=False)
    async def shared() -> FileResponse:
        return FileResponse(file, media_type=media_type, headers=_ANEW)


def _document(api: FastAPI, settings: ServerSettings) -> dict[str, Any]:
    """The OpenAPI document, with the body of a search, which FastAPI does not see."""
    document = get_openapi(
        title=api.title, version=api.version, description=api.description, routes=api.routes
    )
    models = document["components"]["schemas"]
    reference = "#/components/schemas/"
    for model in (SearchById, SearchByParts, SearchByVector, SearchForm):
        schema = model.model_json_schema(ref_template=reference + "{model}")
        models |= schema.pop("$defs", {})
        schema["properties"]["k"]["maximum"] = settings.limits.k
        models[model.__name__] = schema
    form = models["SearchForm"]
    file = {"type": "string", "format": "binary", "description": "The file of an image."}
    several = {"type": "array", "items": file, "minItems": 1, "maxItems": MAX_PARTS}
    several["description"] = "Files of images; several are one query, for what is like all."
    form["properties"] = {"image": several} | form["properties"]
    form["required"] = ["image"]
    names = ("SearchById", "SearchByParts", "SearchByVector")
    by_json = [{"$ref": reference + name} for name in names]
    document["paths"]["/search"]["post"]["requestBody"] = {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"$ref": reference + "SearchForm"}},
            "application/json": {"schema": {"anyOf": by_json}},
        },
    }
    if settings.token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document
