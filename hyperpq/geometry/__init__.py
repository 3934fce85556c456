"""Spaces that vectors are quantized in: hyperbolic (Lorentz model), flat and spherical.

A `Geometry` has the maps, distances and means of a space. Quantizers, training and codecs take one
and know nothing else about it. `get_geometry` finds it by its name, one of `GEOMETRIES`; `METRICS`
are the ways in which the distances of subspaces add up.

To add a geometry, write one file with a subclass of `Geometry` that defines its abstract methods,
as `euclidean.py` does, and add its name to the line `GeometryName` of `registry.py`. Then
``ProductQuantizer(..., geometry=name)`` and ``Recipe().replace(geometry=name)`` take it, and
`tests/geometry/test_geometries.py` tests it against its own definition.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
