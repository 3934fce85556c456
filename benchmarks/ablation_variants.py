"""The changes of the default recipe that `benchmarks.ablation` measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One change of the default recipe.

    Attributes
    ----------
    group, name : str
        What is changed, and to what.
    changes : dict
        Fields of the recipe and their values.
    image_views : bool
        Whether the views are those of augmented images; otherwise they are made of the features.
    metric : str
        Metric of the codec.
    nbits : int
        Bits of a subquantizer when codebooks are fitted; the representation is the same.
    """

    group: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    image_views: bool = True
    metric: str = "l1"
    nbits: int = 8


def _fixed(c: float) -> dict[str, Any]:
    """A curvature that is not learned."""
    return {"train_curvature": False, "curvature": c}


def _prototypes(*levels: int) -> dict[str, Any]:
    """Hierarchical prototypes of so many clusters."""
    return {"prototype_weight": 1.0, "levels": levels}


_JOINT = {"continuous_weight": 0.0, "quantized_weight": 1.0}
_NO_GRAPH = {"graph_neighbours": 0, "graph_steps": 0, "walk_steps": 0, "positive_weight": 1.0}
_UNREFINED, _UNSMOOTHED = {"distil_epochs": 0}, {"smoothing_weight": 0.0}
_BRANCH = {"hidden": 1024}
_ORTHOGONAL = {"head": "orthogonal"}

DEFAULT = Variant("", "default")
VARIANTS = (
    DEFAULT,
    Variant("geometry", "c fixed at 1", _fixed(1.0)),
    Variant("geometry", "c fixed at 4", _fixed(4.0)),
    Variant("geometry", "Euclidean", _fixed(1.0) | {"geometry": "euclidean"}),
    # At c = 1 long tangent vectors of short codes would leave the hemisphere.
    Variant("geometry", "spherical, c fixed at 1/4", _fixed(0.25) | {"geometry": "sphere"}),
    Variant("geometry", "c fixed at 1/4", _fixed(0.25)),
    Variant("contrast", "no graph, positives are views", _NO_GRAPH),
    Variant(
        "contrast", "graph, positives of the walk only", {"graph_steps": 0, "positive_weight": 1.0}
    ),
    Variant("contrast", "graph, diffusion only", {"positive_weight": 0.0}),
    Variant("contrast", "views in feature space", image_views=False),
    Variant("contrast", "no graph, feature space", _NO_GRAPH, image_views=False),
    Variant("contrast", "an image weighs as much as a view", {"image_weight": 1.0}),
    Variant("contrast", "graph of images without views", {"image_weight": 1e6}),
    Variant("contrast", "continuous with quantized as well", {"cross_weight": 1.0}),
    Variant("codebooks", "learned by attention", _JOINT),
    Variant("codebooks", "learned straight-through", _JOINT | {"straight_through": True}),
    Variant("codebooks", "k-means, not refined", _UNREFINED),
    Variant("codebooks", "no smoothing", _UNSMOOTHED),
    Variant("codebooks", "not refined, no smoothing", _UNREFINED | _UNSMOOTHED),
    Variant("hierarchy", "1 level: 50", _prototypes(50)),
    Variant("hierarchy", "2 levels: 100, 50", _prototypes(100, 50)),
    Variant("hierarchy", "3 levels: 100, 50, 25", _prototypes(100, 50, 25)),
    Variant("hierarchy", "4 levels: 200 to 25", _prototypes(200, 100, 50, 25)),
    Variant("hierarchy", "5 levels: 400 to 25", _prototypes(400, 200, 100, 50, 25)),
    Variant(
        "hierarchy", "3 levels and neighbours", _prototypes(100, 50, 25) | {"neighbour_weight": 0.1}
    ),
    Variant("head", "residual branch, dropout .5", _BRANCH | {"dropout": 0.5}),
    Variant("head", "residual branch, no dropout", _BRANCH),
    # geoopt's RiemannianAdam divides by the norm of the whole gradient, where AdamW divides by that
    # of each entry: a step is as long as the learning rate, so it needs a larger one. The curvature
    # would get the same learning rate, so it is fixed.
    Variant("head", "orthogonal", _ORTHOGONAL),
    Variant(
        "head", "orthogonal, learning rate 1, c fixed at 1", _ORTHOGONAL | {"lr": 1.0} | _fixed(1.0)
    ),
    Variant("head", "unit length, no power normalization", {"normalization": "unit"}),
    Variant("head", "learned on 1 subspace", {"subspaces": 1}),
    Variant("head", "learned on 4 subspaces", {"subspaces": 4}),
    Variant("metric", "geodesic", metric="geodesic"),
    Variant("metric", "chord", metric="chord"),
    Variant("nbits", "4", nbits=4),
)
