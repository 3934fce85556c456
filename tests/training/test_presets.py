"""Presets: the published table, and recipes by name."""

from __future__ import annotations

import pytest

from hyperpq.errors import InvalidInputError
from hyperpq.training.presets import PAPER_SETTINGS, get_recipe, paper
from hyperpq.training.recipe import Recipe

# The table of the official configuration files, by hand: r, beta, T, levels, warm-up, F.
PUBLISHED = {
    ("cifar10-i", 16): (0.8, 5, 0.2, (200, 100, 50), 3, 32),
    ("cifar10-i", 32): (0.6, 5, 0.2, (200, 100, 50), 5, 64),
    ("cifar10-i", 64): (1.5, 1, 0.2, (200, 100, 50), 3, 64),
    ("cifar10-ii", 16): (0.8, 5, 0.2, (100, 50, 25), 3, 32),
    ("cifar10-ii", 32): (1.5, 1, 0.2, (100, 50, 25), 3, 64),
    ("cifar10-ii", 64): (1.5, 1, 0.2, (100, 50, 25), 3, 64),
    ("flickr25k", 16): (1.5, 5, 0.5, (50, 20), 1, 32),
    ("flickr25k", 32): (0.5, 15, 0.5, (50, 20), 1, 64),
    ("flickr25k", 64): (0.5, 15, 0.5, (50, 20), 1, 64),
    ("nuswide", 16): (0.8, 5, 0.2, (200, 100, 75), 3, 32),
    ("nuswide", 32): (0.8, 5, 0.5, (200, 100, 75), 3, 64),
    ("nuswide", 64): (0.8, 5, 0.5, (200, 100, 75), 3, 128),
}


@pytest.mark.parametrize(("setting", "want"), PUBLISHED.items(), ids=str)
def test_paper_is_the_published_table(setting, want):
    recipe = paper(setting[1], setting[0])
    own = recipe.to_dict() | {"levels": recipe.hierarchy.levels}
    names = ("max_norm", "beta", "temperature", "levels", "warmup_epochs", "width")
    assert tuple(own[name] for name in names) == want
    names = ("epochs", "batch", "optimizer", "lr", "momentum", "weight_decay", "lr_warmup")
    assert [own[name] for name in names] == [50, 128, "sgd", 0.01, 0.9, 5e-3, 1]
    names = ("prototype_weight", "neighbour_weight", "augmentation")
    assert [own[name] for name in names] == [1, 0.1, "paper"]
    assert get_recipe("paper", setting[1]) == paper(setting[1], "cifar10-ii")


def test_recipes_by_name(small):
    assert {(name, bits) for name, table in PAPER_SETTINGS.items() for bits in table} == set(
        PUBLISHED
    )
    assert get_recipe("default", 32, epochs=7) == Recipe().replace(epochs=7)
    assert get_recipe(small, 32, lr=0.5).optimiser.lr == 0.5
    assert paper(24).representation.width in (32, 64)
    assert paper(1024) == paper(64)


def test_balanced_is_the_default_with_that_objective():
    recipe = get_recipe("balanced", 32, epochs=7)
    assert recipe == Recipe().replace(name="balanced", objective="balanced", epochs=7)
    assert get_recipe("balanced", 32, objective="balanced", balance=0.5).balance == 0.5
    for objective in ("semantic", "fidelity"):
        with pytest.raises(InvalidInputError, match="with the recipe 'balanced'"):
            get_recipe("balanced", 32, objective=objective)


@pytest.mark.parametrize("recipe", ["best", None, 3, {}])
def test_unknown_recipe(recipe):
    with pytest.raises(
        InvalidInputError,
        match="expected 'default', 'balanced', 'paper' or 'paper-finetuned'; pass a",
    ):
        get_recipe(recipe, 32)
    with pytest.raises(InvalidInputError, match="dataset is 'mnist'"):
        paper(32, "mnist")
