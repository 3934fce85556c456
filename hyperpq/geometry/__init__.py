"""Spaces that vectors are quantized in: hyperbolic (Lorentz model), flat and spherical.

A `Geometry` has the maps, distances and means of a space. Quantizers, training and codecs take one
and know nothing else about it. `get_geometry` finds it by its name, one of `GEOMETRIES`; `METRICS`
are the ways in which the distances of subspaces add up. CONTRIBUTING.md says how to add a geometry.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
