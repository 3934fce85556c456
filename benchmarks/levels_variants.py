"""What `benchmarks.levels` compares: both recipes with one thing changed, and baselines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """What is searched with.

    Attributes
    ----------
    group : str
        ``default`` or ``paper``, the recipe of hyperpq that is changed; or ``others``.
    title : str
        What is changed, or the name of another method.
    changes : dict
        Fields of the recipe and their values.
    has_tree_levels : bool
        Whether there are as many hierarchical prototypes as the tree has classes at each level.
    baseline : str
        ``exact`` or a baseline, in place of hyperpq.
    is_normalized : bool
        Whether a baseline gets power-normalized features.
    """

    group: str
    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    has_tree_levels: bool = False
    baseline: str = ""
    is_normalized: bool = False

    @property
    def name(self) -> str:
        """Identifies the variant in its runs."""
        return self.title if self.baseline else f"{self.group}, {self.title}"

    @property
    def is_exact(self) -> bool:
        """Whether there are no codes, and no seed has an effect."""
        return self.baseline == "exact"

    @property
    def learns_each_length(self) -> bool:
        """Whether another length of the codes is another training."""
        return self.group == "paper"


_FLAT = {"geometry": "euclidean", "train_curvature": False, "curvature": 1.0}
_WITH = {"prototype_weight": 1.0}
_WITHOUT = {"prototype_weight": 0.0, "neighbour_weight": 0.0}

GEOMETRIES = ("hyperbolic", "flat")
HIERARCHIES = ("no hierarchy", "hierarchy")
RECIPES = ("default", "paper")
# What the recipes have as they are.
OWN_HIERARCHY = dict(zip(RECIPES, HIERARCHIES, strict=True))


def name_of(recipe: str, geometry: str, hierarchy: str) -> str:
    """Name of the variant of a recipe."""
    return f"{recipe}, {geometry}, {hierarchy}"


VARIANTS = (
    Variant("default", "hyperbolic, no hierarchy"),
    Variant("default", "hyperbolic, hierarchy", _WITH, has_tree_levels=True),
    Variant("default", "flat, no hierarchy", _FLAT),
    Variant("default", "flat, hierarchy", _FLAT | _WITH, has_tree_levels=True),
    Variant("paper", "hyperbolic, no hierarchy", _WITHOUT),
    # Its prototypes and neighbours are those of the preset.
    Variant("paper", "hyperbolic, hierarchy"),
    Variant("paper", "flat, no hierarchy", _FLAT | _WITHOUT),
    Variant("paper", "flat, hierarchy", _FLAT),
    Variant("others", "PQ, raw", baseline="pq"),
    Variant("others", "PQ, normalized", baseline="pq", is_normalized=True),
    Variant("others", "RQ, raw", baseline="rq"),
    Variant("others", "RQ, normalized", baseline="rq", is_normalized=True),
    Variant("others", "exact, raw", baseline="exact"),
    Variant("others", "exact, normalized", baseline="exact", is_normalized=True),
)
