"""The names of geometries and metrics, and a geometry by its name. Does not import torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast, get_args

from hyperpq.errors import InvalidInputError

if TYPE_CHECKING:
    from hyperpq.geometry.base import Geometry

# The geometry of a name is the class with that name, capitalized, in the module with that name.
GeometryName = Literal["lorentz", "euclidean", "sphere"]
GEOMETRIES: tuple[GeometryName, ...] = get_args(GeometryName)

Metric = Literal["l1", "geodesic", "chord"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@cache
def get_geometry(name: str) -> Geometry:
    """The geometry of a name.

    Parameters
    ----------
    name : {"lorentz", "euclidean", "sphere"}

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
    module = import_module(f"hyperpq.geometry.{name}")
    return cast("Geometry", getattr(module, name.capitalize())())
