"""The names of geometries and metrics, and a geometry by its name. Does not import torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast, get_args

from hyperpq.errors import InvalidInputError

if TYPE_CHECKING:
    from hyperpq.geometry.base import Geometry

GeometryName = Literal["lorentz", "euclidean", "sphere"]
GEOMETRIES: tuple[GeometryName, ...] = get_args(GeometryName)
CURVATURE_SIGNS: dict[GeometryName, Literal[-1, 0, 1]] = {
    "lorentz": -1,
    "euclidean": 0,
    "sphere": 1,
}
# Module and class of each; a module is imported when its geometry is first used.
_CLASSES: dict[str, str] = {
    "lorentz": "hyperpq.geometry.lorentz:Lorentz",
    "euclidean": "hyperpq.geometry.euclidean:Euclidean",
    "sphere": "hyperpq.geometry.sphere:Sphere",
}

Metric = Literal["l1", "geodesic", "chord"]
METRICS: tuple[Metric, ...] = get_args(Metric)
CURVATURE_RANGE = (0.01, 10.0)
"""Bounds of c. With them sqrt(c) r is below 5 for each clip radius r in use (docs/method.md)."""


@cache
def get_geometry(name: str) -> Geometry:
    """The geometry of a name.

    Parameters
    ----------
    name : str
        One of `GEOMETRIES`.

    Raises
    ------
    InvalidInputError
        There is no geometry of that name.
    """
    if name not in GEOMETRIES:
        raise InvalidInputError(
            f"geometry is {name!r}; expected {', '.join(map(repr, GEOMETRIES[:-1]))} "
            f"or {GEOMETRIES[-1]!r}."
        )
    module, _, class_name = _CLASSES[name].partition(":")
    return cast("Geometry", getattr(import_module(module), class_name)())
