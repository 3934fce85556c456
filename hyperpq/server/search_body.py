"""`wanted_by`: what the body of a search asks for, as JSON or as a form with files."""

from __future__ import annotations

import os
from typing import Annotated, Any

import numpy as np
from pydantic import Discriminator, Tag, TypeAdapter
from starlette.requests import Request as HttpRequest

from hyperpq.errors import InvalidInputError
from hyperpq.images.sources import EncodedImage
from hyperpq.server.schemas import (
    KINDS,
    FormPart,
    SearchById,
    SearchByParts,
    SearchByVector,
    SearchForm,
)
from hyperpq.server.served_index import Request
from hyperpq.server.uploads import Body, RefusedError


def _kind(value: Any) -> str:
    for name, model in (("id", SearchById), ("parts", SearchByParts)):
        if name in value if isinstance(value, dict) else isinstance(value, model):
            return KINDS[name]
    return KINDS["vector"]


_JSON: TypeAdapter[SearchById | SearchByParts | SearchByVector] = TypeAdapter(
    Annotated[
        Annotated[SearchById, Tag(KINDS["id"])]
        | Annotated[SearchByParts, Tag(KINDS["parts"])]
        | Annotated[SearchByVector, Tag(KINDS["vector"])],
        Discriminator(_kind),
    ]
)


async def wanted_by(request: HttpRequest, body: Body) -> Request:
    """What a request asks for.

    Raises
    ------
    InvalidInputError, pydantic.ValidationError, RefusedError, BusyError
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        files, fields = await body.form()
        form = SearchForm.model_validate_strings(fields)
        images = [EncodedImage(content, _plain(name)) for content, name in files]
        options = form.model_dump(exclude={"parts"})
        if form.parts is None:
            return Request(images=tuple(images), **options)
        return Request(*_parts_of(form.parts, images), **options)
    if kind == "application/json":
        value = _JSON.validate_json(await body.content(), strict=True)
        options = value.model_dump(exclude={"id", "parts", "vector"})
        if isinstance(value, SearchByVector):
            return Request(vector=np.array(value.vector, np.float32), **options)
        if isinstance(value, SearchById):
            return Request(images=(value.id,), **options)
        return Request(
            tuple(part.id for part in value.parts),
            tuple(part.weight for part in value.parts),
            **options,
        )
    raise RefusedError(
        415,
        f"the type of the body is {kind or 'not given'!r}; expected multipart/form-data with an "
        "image, or application/json",
    )


def _parts_of(
    parts: list[FormPart], files: list[EncodedImage]
) -> tuple[tuple[EncodedImage | int, ...], tuple[float, ...]]:
    """The images of a form and the index that are one query, and their weights."""
    named = sorted(part.image for part in parts if part.image is not None)
    if named != list(range(len(files))):
        raise InvalidInputError(
            f"parts names the files {named}, and the form has {len(files)}; expected each number "
            f"from 0 to {len(files) - 1} once."
        )
    images: list[EncodedImage | int] = []
    for part in parts:
        if (part.image is None) == (part.id is None):
            raise InvalidInputError(
                "parts has an entry with both image and id, or with none; expected one of them."
            )
        images.append(files[part.image] if part.image is not None else part.id)  # type: ignore[arg-type]
    return tuple(images), tuple(part.weight for part in parts)


def _plain(name: str) -> bytes:
    """What a client calls an image: never a path of this machine.

    Only its ending counts, by which camera files are told from others.
    """
    return os.fsencode(name.replace("\\", "/").rpartition("/")[2].replace("\0", ""))
