"""Recipes: groups and their fields, what is refused, and what is recorded."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json

import numpy as np
import pytest

from hyperpq.errors import InvalidInputError
from hyperpq.training import recipe as module
from hyperpq.training.presets import get_recipe
from hyperpq.training.recipe import GROUP_OF, GROUPS, GraphSettings, Recipe


def test_replace_reaches_every_group_and_leaves_the_rest():
    recipe = Recipe().replace(epochs=3, width=32, subspaces=4, name="mine", n_views=2)
    assert (recipe.optimiser.epochs, recipe.representation.width) == (3, 32)
    assert (recipe.name, recipe.views.n_views) == ("mine", 2)
    changed = {"epochs": 3, "width": 32, "subspaces": 4, "name": "mine", "n_views": 2}
    assert recipe.to_dict() == Recipe().to_dict() | changed
    assert Recipe() == Recipe().replace()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.graph.walk_steps = 3


def test_names_of_fields_are_different():
    names = [field.name for kind in GROUPS.values() for field in dataclasses.fields(kind)]
    own = [field.name for field in dataclasses.fields(Recipe)]
    assert len(set(names + own)) == len(names + own)
    assert set(Recipe().to_dict()) == set(GROUP_OF) == set(names + own) - set(GROUPS)


def test_every_field_is_documented():
    """A string follows each field, as documentation of attributes does."""
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        assert len(ast.get_docstring(node)) > 20
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and field.target.id not in GROUPS:
                assert isinstance(after, ast.Expr), f"{node.name}.{field.target.id}"
                assert len(after.value.value) > 20


def test_recorded_fields_are_plain_values():
    recipe = Recipe().replace(epochs=np.int64(3), lr=np.float32(0.5), levels=[4, 2])
    recorded = json.loads(json.dumps(recipe.to_dict()))
    assert (recorded["epochs"], recorded["lr"], recorded["levels"]) == (3, 0.5, [4, 2])
    assert recipe.hierarchy.levels == (4, 2)


def test_epochs_follow_the_number_of_features():
    epochs = [Recipe().for_size(n).optimiser.epochs for n in (1, 5000, 10_000, 10**6)]
    assert epochs == [24, 24, 12, 8]
    assert Recipe().replace(epochs=0).for_size(10**6).optimiser.epochs == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epoch": 3}, "no epoch; its fields are .*epochs"),
        ({"epochs": -1}, "epochs is -1"),
        ({"epochs": "3"}, "epochs is '3'"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"batch": 0}, "batch is 0"),
        ({"lr": 0}, "lr is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": None}, "lr is None"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"beta": -1.0}, "beta is -1"),
        ({"width": True}, "width is True"),
        ({"momentum": -0.5}, "momentum is -0.5"),
        ({"optimizer": "lion"}, "optimizer is 'lion'"),
        ({"optimizer": None}, "optimizer is None"),
        ({"levels": 5}, "levels is 5"),
        ({"levels": (1,)}, "levels are"),
        ({"levels": (5.5,)}, "levels is 5.5"),
        ({"augmentation": "wild"}, "augmentation is 'wild'"),
        ({"repair": 1}, "repair is 1"),
        ({"image_weight": -1.0}, "image_weight is -1"),
        ({"head": "mlp"}, "head is 'mlp'; expected 'linear' or 'orthogonal'."),
        ({"normalization": "whiten"}, "normalization is 'whiten'"),
        ({"geometry": "torus"}, "geometry is 'torus'"),
        ({"objective": "beauty"}, "objective is 'beauty'"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 to below 1."),
        ({"smoothing_weight": 1.5}, "smoothing_weight is 1.5; expected 0 to 1."),
        ({"positive_weight": -0.5}, "positive_weight is -0.5"),
        ({"curvature": 11}, "curvature is 11.0; expected 0.01 to 10."),
        ({"width": 30}, "width is 30; expected a multiple of subspaces, 8."),
        ({"graph_steps": 3}, "graph_steps is 3; expected an even number."),
        ({"continuous_weight": 0}, "are all 0"),
        ({"name": 3}, "name is 3"),
        ({"holdout_check": "yes"}, "holdout_check is 'yes'; expected True or False."),
    ],
    ids=str,
)
def test_wrong_fields_are_named(changes, match):
    with pytest.raises(InvalidInputError, match=match) as caught:
        get_recipe("default", 32, **changes)
    assert str(caught.value).endswith(".")


def test_groups_are_checked():
    assert Recipe(graph=GraphSettings(walk_steps=5)).graph.walk_steps == 5
    with pytest.raises(InvalidInputError, match="graph is 5; expected GraphSettings"):
        Recipe(graph=5)
