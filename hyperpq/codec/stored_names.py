"""Names that codec.json has for the settings of a codec and for the fields of its recipe.

The file format (docs/reference/format.md) has names of its own, which released versions wrote and
read. They occur in this module and in `codec.serialization` alone: `Codec.settings` and
`Codec.recipe` have the names of the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperpq.codec.config import Normalization

STORED_NAMES = {
    "metric": "score",
    "normalization": "conditioning",
    "smoothing_weight": "average_weight",
    "smoothing_neighbours": "average_neighbours",
}
"""Settings whose names in codec.json are other ones."""
STORED_RECIPE_NAMES = {
    "normalization": "conditioning",
    "smoothing_weight": "average_weight",
    "smoothing_neighbours": "average_neighbours",
    "holdout_check": "guard",
    "image_weight": "picture_weight",
    "positive_weight": "partner_weight",
    "walk_steps": "walk",
    "augmentation": "views",
}
"""Fields of a recipe whose names in codec.json are other ones."""
_STORED_NORMALIZATIONS: dict[Normalization, str] = {"power": "root", "unit": "unit", "none": "none"}
# Fields that are younger than the format: they are written only if they have another value.
YOUNGER = {
    "geometry": "lorentz",
    "straight_through": False,
    "rotation": 0,
    "balance": 0.25,
    "transferred_views": 0,
}


def stored_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a recipe by the names of codec.json."""
    return renamed(recipe, STORED_RECIPE_NAMES)


def loaded_recipe(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a recipe from codec.json by their names in the code; others stay as they are."""
    names = {old: new for new, old in STORED_RECIPE_NAMES.items()}
    recipe = {names.get(name, name): value for name, value in stored.items()}
    for new, old in _STORED_NORMALIZATIONS.items():
        if stored.get("conditioning") == old:
            recipe["normalization"] = new
    return recipe


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Settings by their stored names, without younger ones that have their first value."""
    stored = {
        names.get(name, name): value
        for name, value in values.items()
        if name not in YOUNGER or value != YOUNGER[name]
    }
    for new, old in _STORED_NORMALIZATIONS.items():
        if values.get("normalization") == new:
            stored["conditioning"] = old
    return stored


def loaded_normalization(stored: Mapping[str, Any]) -> Normalization:
    """The normalization of features that codec.json names.

    Raises
    ------
    KeyError, ValueError
        If it names none, or one that is not known.
    """
    for new, old in _STORED_NORMALIZATIONS.items():
        if stored["conditioning"] == old:
            return new
    expected = ", ".join(_STORED_NORMALIZATIONS.values())
    raise ValueError(f"conditioning is {stored['conditioning']!r}; expected one of {expected}")
