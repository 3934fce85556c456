"""Codecs as files: round trips, stored names, and files that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import AdditiveConfig, CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.serialization import (
    SETTINGS_FILE,
    WEIGHTS_FILE,
    difference,
    from_files,
    stored_recipe,
    stored_settings,
    to_files,
)
from hyperpq.codec.stored_names import loaded_recipe
from hyperpq.errors import CorruptIndexError, FormatVersionError
from hyperpq.geometry import GEOMETRIES
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec

DATA = Path(__file__).parents[1] / "data"
# Names in codec.json of learned codecs, which format 3 fixes.
STORED = {
    *("format", "version", "d", "M", "D", "nbits", "score", "conditioning", "head", "hidden"),
    *("dropout", "average_weight", "average_neighbours", "temperature", "distil_epochs"),
    *("learned", "recipe"),
}
STORED_RECIPE = {
    *("name", "objective", "width", "subspaces", "average_weight", "average_neighbours"),
    *("distil_epochs", "conditioning", "head", "hidden", "dropout", "max_norm", "beta", "radius"),
    *("temperature", "continuous_weight", "cross_weight", "quantized_weight", "graph_neighbours"),
    *("graph_steps", "picture_weight", "walk", "partner_weight", "levels", "prototype_weight"),
    *("neighbour_weight", "warmup_epochs", "epochs", "batch", "optimizer", "lr", "momentum"),
    *("weight_decay", "lr_warmup", "train_curvature", "curvature", "repair", "guard", "views"),
    "n_views",
}

SMALL = Recipe().replace(width=12, subspaces=4, epochs=2, warmup_epochs=1, levels=(20, 5))


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 24)) * 3
    return np.abs(centers[rng.integers(0, 20, 400)] + rng.normal(size=(400, 24))).astype(np.float32)


@pytest.fixture(scope="module")
def codec(x):
    return train_codec(x, M=3, recipe=SMALL)


def test_files_round_trip_bit_for_bit(codec, x):
    files = to_files(codec)
    again = from_files(files)
    assert to_files(again) == files
    np.testing.assert_array_equal(again.tables(x[:9]), codec.tables(x[:9]))
    np.testing.assert_array_equal(again.encode(x), codec.encode(x))


def test_the_files_of_a_released_version_are_written_again():
    files = {
        name: (DATA / "format-3" / name).read_bytes() for name in (SETTINGS_FILE, WEIGHTS_FILE)
    }
    assert to_files(from_files(files)) == files


def test_stored_names_are_those_of_the_format(codec):
    stored = json.loads(to_files(codec)[SETTINGS_FILE])
    assert set(stored) == STORED | {"beta", "max_norm"}
    assert set(stored["recipe"]) == STORED_RECIPE
    assert stored["conditioning"] == stored["recipe"]["conditioning"] == "root"
    assert set(stored["learned"]) == {"M", "F", "max_norm", "sample", "centroids"}
    additive = AdditiveCodec(AdditiveConfig(6, 2, D=3))
    assert set(stored_settings(additive)) | {"format", "version"} == STORED
    assert set(stored_settings(additive)["learned"]) == set(stored["learned"])


def test_recipes_have_the_names_of_the_code_in_memory(codec):
    again = from_files(to_files(codec))
    assert again.recipe == {k: v for k, v in codec.recipe.items() if k in again.recipe}
    young = {"straight_through", "balance", "transferred_views"}
    assert set(codec.recipe) - set(again.recipe) == young | {"geometry"}
    recipe = Recipe().replace(geometry="sphere", normalization="unit", walk_steps=3).to_dict()
    stored = stored_recipe(recipe)
    assert (stored["geometry"], stored["conditioning"], stored["walk"]) == ("sphere", "unit", 3)
    assert loaded_recipe(stored) == {k: v for k, v in recipe.items() if k not in young}
    # Fields of older versions stay as they are.
    assert loaded_recipe({"old": [1], "conditioning": [2]}) == {"old": [1], "normalization": [2]}
    assert stored_recipe(loaded_recipe({"old": 1, "guard": 0})) == {"old": 1, "guard": 0}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometry_is_stored_unless_it_is_hyperbolic(geometry, x):
    codec = HiHPQCodec(CodecConfig(24, 2, D=4, geometry=geometry))
    with torch.no_grad():
        codec.weight.normal_(std=0.1)
        codec.quantizer.codebooks.normal_(std=0.1)
    codec.is_trained = True
    files = to_files(codec)
    stored = json.loads(files[SETTINGS_FILE])
    assert stored.get("geometry", "lorentz") == geometry
    assert ("geometry" in stored) == (geometry != "lorentz")
    again = from_files(files)
    assert again.config == codec.config
    np.testing.assert_array_equal(again.tables(x), codec.tables(x))
    with pytest.raises(CorruptIndexError, match="geometry"):
        from_files(edited(files, geometry=3))


def test_a_geometry_of_a_newer_version_is_named(codec):
    with pytest.raises(FormatVersionError, match=r"geometry 'torus'; .*; open the index with the"):
        from_files(edited(to_files(codec), geometry="torus"))


def test_difference_is_named(codec):
    assert difference(codec, from_files(to_files(codec))) is None
    assert difference(codec, codec.with_bits(16)) == "M is 3 here and 2 there"
    other = codec.with_bits(24, metric="chord")
    assert difference(codec, other) == "metric is 'l1' here and 'chord' there"
    other = from_files(to_files(codec))
    with torch.no_grad():
        other.bias += 1
    assert difference(codec, other) == "the codecs were learned apart"


def edited(files, **changes):
    settings = json.loads(files[SETTINGS_FILE])
    settings.update(changes)
    return {**files, SETTINGS_FILE: json.dumps(settings).encode()}


@pytest.mark.parametrize(
    "changes",
    [
        {"M": 4},
        {"d": 10**12},
        {"D": 10**9},
        {"d": -1},
        {"nbits": 7},
        {"score": "x"},
        {"format": "zip"},
        {"beta": "high"},
        {"head": None},
        {"recipe": 3},
        {"conditioning": "power"},
        {"beta": float("nan")},
        {"dropout": 1},
        {"d": 24.5},
    ],
)
def test_edited_settings_are_refused_before_memory_is_asked_for(codec, changes):
    with pytest.raises(CorruptIndexError):
        from_files(edited(to_files(codec), **changes))


def test_another_version_is_named(codec):
    with pytest.raises(FormatVersionError, match="has version 99; this hyperpq reads version 3"):
        from_files(edited(to_files(codec), version=99))


@pytest.mark.parametrize(
    "changes",
    [
        *({"M": 0}, {"F": 10**9}, {"F": 7}, {"max_norm": -1}, {"sample": -1}),
        *({"sample": 10**12}, {"F": 8}, {"F": 16}),
    ],
)
def test_edited_facts_of_learning_are_refused(codec, changes):
    files = to_files(codec)
    learned = json.loads(files[SETTINGS_FILE])["learned"] | changes
    with pytest.raises(CorruptIndexError):
        from_files(edited(files, learned=learned))


def test_damaged_weights_are_refused(codec):
    from safetensors.torch import load, save

    files = to_files(codec)
    for damage in (b"", b"junk" * 10, files[WEIGHTS_FILE][:-5], files[WEIGHTS_FILE] + b"x"):
        with pytest.raises(CorruptIndexError):
            from_files({**files, WEIGHTS_FILE: damage})
    state = load(files[WEIGHTS_FILE])
    for name, value in (
        ("weight", state["weight"] * float("nan")),
        ("weight", state["weight"].double()),
        ("weight", state["weight"][:-1]),
        ("quantizer.log_c", state["quantizer.log_c"] + 50),
        ("extra", torch.zeros(1)),
    ):
        with pytest.raises(CorruptIndexError):
            from_files({**files, WEIGHTS_FILE: save({**state, name: value.contiguous()})})
    for missing in files:
        with pytest.raises(CorruptIndexError):
            from_files({k: v for k, v in files.items() if k != missing})
