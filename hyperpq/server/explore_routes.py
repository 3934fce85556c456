"""`add_exploring`: the routes of groups, map and codewords."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from fastapi import Path as InPath
from fastapi import Query as InQuery
from starlette.responses import Response

from hyperpq.server.problems import documented
from hyperpq.server.schemas import Codewords, Groups, ImageMap, SampleImage
from hyperpq.server.service import Service

_Number = Annotated[int, InPath(ge=0, le=1 << 16)]
_Count = Annotated[int, InQuery(ge=1, le=1000, description="Number of images, at most.")]


def add_exploring(api: FastAPI, service: Service) -> None:
    """Add the routes to an application.

    What they show is made when it is first asked for; until then they answer 503.
    """

    def answers(model: type) -> dict[int | str, dict[str, Any]]:
        return {200: {"model": model}, **documented(500, 503)}

    @api.get(
        "/explore/groups",
        response_class=Response,
        responses=answers(Groups),
        summary="All images in nested groups, by their codes.",
    )
    async def groups() -> Response:
        return _json((await service.explored()).tree)

    @api.get(
        "/explore/map",
        response_class=Response,
        responses=answers(ImageMap),
        summary="A map of the groups, with 20,000 images or a few more.",
    )
    async def image_map() -> Response:
        return _json((await service.explored()).map)

    @api.get(
        "/explore/codewords",
        response_class=Response,
        responses=answers(Codewords),
        summary="The codewords of each subspace on a disk, and how many images use them.",
    )
    async def codewords() -> Response:
        return _json((await service.explored()).codewords)

    @api.get(
        "/explore/codewords/{m}/{codeword}",
        responses=documented(422, 500, 503),
        summary="Images whose codes use a codeword of the subspace m.",
    )
    async def images_with(m: _Number, codeword: _Number, n: _Count = 60) -> list[SampleImage]:
        return await service.images_with(m, codeword, n)


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
