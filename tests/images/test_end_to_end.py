"""Builds with the recipe ``paper-finetuned``: network and codec learn together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_network
from image_tools import fill, tree
from tiny_network import SETTINGS

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError
from hyperpq.images import ImageIndex, build_index
from hyperpq.images.build import finetune_stage, stages
from hyperpq.store import verify_directory

COUNT = 20


class Killed(BaseException):
    """What a kill is here: no `except Exception` sees it."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    tiny_network.install(monkeypatch)


def build(folder, index, **options):
    known = {"recipe": "paper-finetuned", "finetune": SETTINGS, "bits": 16, "epochs": 2}
    return build_index([folder], index, device="cpu", **{**known, **options})


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Images ``p`` and their index."""
    folder = tmp_path_factory.mktemp("kept")
    fill(folder / "p", COUNT)
    with pytest.MonkeyPatch.context() as patch:
        tiny_network.install(patch)
        _, report = build(folder / "p", folder / "index")
    assert report.finetuned == "on 20 images, together with the codec"
    return folder


def test_the_index_has_the_network_and_the_codec_that_learned_together(kept):
    index = ImageIndex.open(kept / "index", device="cpu", verify=True)
    assert verify_directory(kept / "index") == []
    assert not (kept / "index.building").exists()
    codec = index.index.codec
    assert (codec.recipe["name"], codec.config.geometry) == ("paper-finetuned", "lorentz")
    # Both have learned: the curvatures start as 1.
    assert (codec.quantizer.log_c.detach().abs() > 0).all()
    tuned = HiHPQIndex.load(kept / "index", device="cpu").view().rows.tuned
    assert np.abs(tuned.changes["0.weight"]).max() > 0
    assert index.backbone.tuned == tuned
    # Every image has the codes of its feature by the tuned network.
    ids = index.index.ids
    codes = index.index.view().rows.codes_of(ids)
    np.testing.assert_array_equal(codes, codec.encode(index.index.features_of(ids)))
    for path, answer in zip(index.paths(), index.query(index.paths(), 1), strict=True):
        assert answer.results[0].path == path
    record = index.index.metadata["pictures"]["finetuned"]
    assert (record["settings"]["rounds"], record["settings"]["epochs"]) == (1, 2)


def test_an_update_encodes_by_both_and_learns_nothing(kept, tmp_path):
    index, _ = build(kept / "p", tmp_path / "index")
    before = index.index.codec.encode(np.eye(24, dtype=np.float32))
    fill(tmp_path / "more", 40, start=100)
    index, report = build(tmp_path / "more", tmp_path / "index")
    assert (report.images, report.relearned) == (60, None)
    np.testing.assert_array_equal(index.index.codec.encode(np.eye(24, dtype=np.float32)), before)


@pytest.mark.parametrize(
    ("module", "name"), [(finetune_stage, "_tuned"), (stages, "train_index"), (stages, "_commit")]
)
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(kept, tmp_path, module, name):
    def killed(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, name, killed)
        build(kept / "p", tmp_path / "index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_stage, "learn_end_to_end", killed)  # it is not done again
        build(kept / "p", tmp_path / "index", resume=True)
    made, wanted = tree(tmp_path / "index"), tree(kept / "index")
    assert made.keys() == wanted.keys()
    assert [n for n in made if made[n] != wanted[n] and n != "manifest.json"] == []


def test_an_index_is_finetuned_by_its_own_recipe(kept, tmp_path):
    index, _ = build(kept / "p", tmp_path / "index")
    with pytest.raises(InvalidInputError, match="finetune is 5 minutes; expected no limit"):
        index.finetune(replace(SETTINGS, minutes=5.0))
    first = index.backbone.tuned
    report = index.finetune(replace(SETTINGS, seed=1))
    assert report.outcome == "on 20 images, together with the codec"
    assert index.index.codec.recipe["name"] == "paper-finetuned"
    assert index.backbone.tuned != first


@pytest.mark.parametrize(
    ("recipe", "objective"),
    [(None, "fidelity"), (None, "balanced"), ("default", "semantic"), ("default", "fidelity")],
)
def test_a_codec_that_has_learned_otherwise_meanwhile_learns_so_again(
    kept, tmp_path, recipe, objective
):
    index, _ = build(kept / "p", tmp_path / "index")
    first = index.backbone.tuned
    index.index.retrain(recipe=recipe, objective=objective, epochs=1)
    # In rounds, and so with a limit in time.
    report = index.finetune(replace(SETTINGS, minutes=0.001))
    assert "together with the codec" not in report.outcome
    assert (index.index.objective, index.backbone.tuned == first) == (objective, False)


def test_a_balanced_codec_that_has_another_objective_now_is_finetuned(kept, tmp_path):
    index, _ = build(kept / "p", tmp_path / "index", recipe="balanced", objective="balanced")
    index.index.retrain(objective="fidelity", epochs=1)
    index.finetune(SETTINGS)
    assert index.index.objective == "fidelity"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finetune": None}, "finetune is not given; expected it, without a limit"),
        ({"finetune": 5}, "finetune is 5 minutes; expected no limit"),
        ({"objective": "fidelity"}, "objective is 'fidelity'; expected 'semantic'"),
    ],
)
def test_what_does_not_go_together_is_refused(kept, tmp_path, options, message):
    with pytest.raises(InvalidInputError, match=message):
        build(kept / "p", tmp_path / "index", **options)
    assert not (tmp_path / "index.building").exists()
