"""The presets of `Recipe` by their names, and the published settings."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from hyperpq.errors import InvalidInputError
from hyperpq.training.recipe import Recipe
from hyperpq.utils.validation import as_choice

Preset = Literal["default", "balanced", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
END_TO_END = "paper-finetuned"
"""The preset of `paper_finetuned`, which learns together with an image network."""


class PublishedSettings(NamedTuple):
    """What the official configuration files set by data set and code length."""

    max_norm: float
    beta: float
    temperature: float
    levels: tuple[int, ...]
    warmup_epochs: int
    width: int


# Data set -> bits of a code -> settings.
PAPER_SETTINGS: dict[str, dict[int, PublishedSettings]] = {
    "cifar10-i": {
        16: PublishedSettings(0.8, 5, 0.2, (200, 100, 50), 3, 32),
        32: PublishedSettings(0.6, 5, 0.2, (200, 100, 50), 5, 64),
        64: PublishedSettings(1.5, 1, 0.2, (200, 100, 50), 3, 64),
    },
    "cifar10-ii": {
        16: PublishedSettings(0.8, 5, 0.2, (100, 50, 25), 3, 32),
        32: PublishedSettings(1.5, 1, 0.2, (100, 50, 25), 3, 64),
        64: PublishedSettings(1.5, 1, 0.2, (100, 50, 25), 3, 64),
    },
    "flickr25k": {
        16: PublishedSettings(1.5, 5, 0.5, (50, 20), 1, 32),
        32: PublishedSettings(0.5, 15, 0.5, (50, 20), 1, 64),
        64: PublishedSettings(0.5, 15, 0.5, (50, 20), 1, 64),
    },
    "nuswide": {
        16: PublishedSettings(0.8, 5, 0.2, (200, 100, 75), 3, 32),
        32: PublishedSettings(0.8, 5, 0.5, (200, 100, 75), 3, 64),
        64: PublishedSettings(0.8, 5, 0.5, (200, 100, 75), 3, 128),
    },
}

# What the paper and its code have for every data set, where the defaults differ.
_PAPER: dict[str, Any] = {
    "name": "paper",
    "holdout_check": False,
    # The codebooks are learned with the head, on the subspaces of the code.
    "subspaces": 0,
    "normalization": "unit",
    # Only quantized points are contrasted, and the positive is another view of the image.
    "continuous_weight": 0.0,
    "quantized_weight": 1.0,
    "positive_weight": 1.0,
    "graph_neighbours": 0,
    "graph_steps": 0,
    "walk_steps": 0,
    "prototype_weight": 1.0,
    "neighbour_weight": 0.1,
    # Nothing is done to vectors or codebooks after the training.
    "smoothing_weight": 0.0,
    "smoothing_neighbours": 0,
    "distil_epochs": 0,
    "repair": False,
    "epochs": 50,
    "batch": 128,
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 5e-3,
    "augmentation": "paper",
}


def paper(bits: int, dataset: str = "cifar10-ii") -> Recipe:
    """The published recipe for a code length.

    Parameters
    ----------
    bits : int
        Bits of a code. Lengths that were not published take the settings of the nearest that was.
    dataset : str
        Data set whose settings are taken, a key of `PAPER_SETTINGS`.

    Returns
    -------
    Recipe
        Without the known defects of the official code (docs/method.md, section 10): curvatures are
        not decayed, the epoch is not chosen on test data, and self pairs are masked in the
        neighbour loss.

    Raises
    ------
    InvalidInputError
        The data set is unknown.
    """
    table = PAPER_SETTINGS[as_choice(dataset, "dataset", tuple(PAPER_SETTINGS))]
    published = table[min(table, key=lambda length: abs(length - bits))]
    return Recipe().replace(**_PAPER, **published._asdict())


def paper_finetuned(bits: int, dataset: str = "cifar10-ii") -> Recipe:
    """The published recipe for training end to end with the image network.

    The losses, the quantizer and its optimiser are those of `paper`. `finetune_codec` learns with
    them; on features alone the recipe is that of `paper`.

    Parameters
    ----------
    bits, dataset
        See `paper`.
    """
    return paper(bits, dataset).replace(name=END_TO_END)


def get_recipe(recipe: str | Recipe, bits: int, **changes: Any) -> Recipe:
    """A preset for a code length, or a recipe as it is, with some fields changed.

    Parameters
    ----------
    recipe : {"default", "balanced", "paper", "paper-finetuned"} or Recipe
        The preset by its name, or a recipe. ``balanced`` is the default with that objective.
        ``paper-finetuned`` is `paper_finetuned`, which on features alone is ``paper``.
    bits : int
        Bits of a code; the presets of the paper depend on it.
    **changes
        Fields to change, see `Recipe.replace`.

    Raises
    ------
    InvalidInputError
        The name, a field or a value is not valid, or the preset ``balanced`` is given with another
        objective.
    """
    if isinstance(recipe, Recipe):
        return recipe.replace(**changes)
    known = (*PRESETS, END_TO_END)
    preset = as_choice(recipe, "recipe", known, "pass a Recipe for settings of your own")
    if preset == "balanced":
        objective = changes.setdefault("objective", "balanced")
        if objective != "balanced":
            raise InvalidInputError(
                f"objective is {objective!r} with the recipe 'balanced'; expected 'balanced', or "
                "the recipe 'default'."
            )
        return Recipe(name=preset).replace(**changes)
    if preset == "default":
        return Recipe().replace(**changes)
    published = paper if preset == "paper" else paper_finetuned
    return published(bits).replace(**changes)
