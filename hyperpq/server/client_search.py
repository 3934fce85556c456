"""`Asked`: what a client searches for, as a request to the server."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from hyperpq.errors import InvalidInputError

Image: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes]
"""A path of this machine, the content of an image file, or a file that is open for reading."""


class SearchOptions(TypedDict, total=False):
    """What the results of a search are, see `ImageIndex.query`."""

    where: str | None
    max_distance: float | None
    min_similarity: float | None
    existing: bool
    exclude_self: bool
    refine: bool | None
    nprobe: int | None
    recall: float | None


@dataclass(frozen=True)
class Call:
    """A request, by the names of httpx2."""

    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What is searched for: one of images, ids and a vector, or images and ids with weights."""

    image: Image | Sequence[Image] | None
    id: int | Sequence[int] | None
    vector: ArrayLike | None
    weights: Sequence[float] | None

    def call(self, k: int, options: SearchOptions) -> Call:
        """The request.

        Raises
        ------
        InvalidInputError
            If it is not one of these, or an image cannot be read.
        """
        given = {"image": self.image, "id": self.id, "vector": self.vector}
        names = [name for name, value in given.items() if value is not None]
        if not names or (self.vector is not None and len(names) > 1):
            raise InvalidInputError(
                f"{' and '.join(names) or 'nothing'} given to search for; expected images, ids or "
                "both, or else a vector."
            )
        fields = {"k": k} | {name: value for name, value in options.items() if value is not None}
        if self.vector is not None:
            fields["vector"] = np.asarray(self.vector, np.float32).tolist()
            return Call("POST", "/search", {"json": fields})
        images, ids = _several(self.image), [int(id) for id in _several(self.id)]
        parts = self._parts(len(images), ids)
        if not images:
            fields |= {"id": ids[0]} if parts is None else {"parts": parts}
            return Call("POST", "/search", {"json": fields})
        if parts is not None:
            fields["parts"] = parts
        texts = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in fields.items()
        }
        form = {"data": texts, "files": [("image", _content(one)) for one in images]}
        return Call("POST", "/search", form)

    def _parts(self, images: int, ids: list[int]) -> list[dict[str, float]] | None:
        """Images and ids as parts of a query; None where the request needs none."""
        count = images + len(ids)
        if not count:
            raise InvalidInputError(
                "image and id are empty; expected an image or an id, or several in a list."
            )
        if self.weights is None and (not ids or count == 1):
            return None
        weights = [1.0] * count if self.weights is None else [float(w) for w in self.weights]
        if len(weights) != count:
            raise InvalidInputError(
                f"weights has {len(weights)} numbers; expected {count}, one for each image, and "
                "then one for each id."
            )
        parts: list[dict[str, float]] = [{"image": number} for number in range(images)]
        parts += [{"id": id} for id in ids]
        return [part | {"weight": weight} for part, weight in zip(parts, weights, strict=True)]


def _several(given: object) -> list[Any]:
    """One or several of something as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple, np.ndarray)) else [given]


def _content(image: Image) -> tuple[str, bytes]:
    """Name and content of an image."""
    if isinstance(image, bytes):
        return "image", image
    if isinstance(image, (str, os.PathLike)):
        name = os.path.basename(os.fspath(image)).encode("utf-8", "replace").decode()
        try:
            with open(image, "rb") as file:
                return name, file.read()
        except OSError as error:
            raise InvalidInputError(
                f"{os.fspath(image)} cannot be read: {error.strerror}."
            ) from error
    return "image", image.read()
