"""Checkpoints: a resumed training ends where an undisturbed one does, and others are refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from hyperpq.codec.serialization import to_files
from hyperpq.errors import CorruptIndexError, TrainingError
from hyperpq.training.feature_views import feature_views
from hyperpq.training.task import TrainingRun
from hyperpq.training.train import train_codec

VARIANTS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "lr": 0.01},
    "orthogonal adamw": {"head": "orthogonal"},
    "orthogonal sgd": {"head": "orthogonal", "optimizer": "sgd", "lr": 0.01},
    "fixed curvature": {"train_curvature": False},
    "no hierarchy": {"levels": ()},
    "unit": {"normalization": "unit", "repair": False},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def recipe(request, small):
    return small.replace(**request.param)


def test_same_seed_same_bytes(x, train, recipe):
    one, two, other = (to_files(train(x, recipe, seed=s)) for s in (1, 1, 2))
    assert one == two
    assert one != other


@pytest.mark.parametrize("done", [1, 3])
def test_resume_ends_where_an_undisturbed_run_ends(x, train, recipe, done, interrupting, tmp_path):
    progress, error = interrupting
    views = feature_views(x, 3, seed=5)
    whole = train(x, recipe, views=views, trace_path=tmp_path / "whole.jsonl")
    checkpoint, trace = tmp_path / "checkpoint", tmp_path / "trace.jsonl"
    options = {"views": views, "checkpoint": checkpoint, "trace_path": trace, "resume": True}
    with pytest.raises(error):
        train(x, recipe, progress=progress(done), **options)
    assert len(trace.read_text().splitlines()) == done
    resumed = train(x, recipe, **options)
    assert to_files(resumed) == to_files(whole)
    assert trace.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # Once more from the end: nothing is left to do.
    assert to_files(train(x, recipe, **options)) == to_files(whole)
    assert trace.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_checkpoint_does_not_change_the_result(x, train, tmp_path):
    assert to_files(train(x, checkpoint=tmp_path / "c")) == to_files(train(x))


def test_without_resume_a_checkpoint_is_not_read(x, train, tmp_path):
    checkpoint, trace = tmp_path / "c", tmp_path / "t.jsonl"
    checkpoint.write_bytes(b"of something else")
    trace.write_text("of something else")
    train(x, checkpoint=checkpoint, trace_path=trace)
    assert len(trace.read_text().splitlines()) == 4
    train(x, checkpoint=checkpoint, trace_path=trace, resume=True)


@pytest.mark.parametrize("change", ["x", "views", "seed", "recipe", "M", "metric"])
def test_checkpoint_of_another_training_is_refused(x, small, change, interrupting, tmp_path):
    progress, error = interrupting
    views = feature_views(x, 2, seed=0)
    options = {"views": views, "recipe": small, "M": 2, "nbits": 4, "metric": "l1", "seed": 0}
    common = {"checkpoint": tmp_path / "c", "resume": True}
    with pytest.raises(error):
        train_codec(x, **options, run=TrainingRun(**common, progress=progress(1)))
    other = x.copy()
    other[0, 0] += 1
    if change != "x":
        options[change] = {
            "views": views + 1,
            "seed": 1,
            "recipe": small.replace(lr=2e-3),
            "M": 4,
            "metric": "chord",
        }[change]
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(TrainingError, match="other data, settings or seed"):
        train_codec(other if change == "x" else x, **options, run=TrainingRun(**common))
    assert (tmp_path / "c").read_bytes() == before


def checkpoint_of(data, folder):
    """A file with this content."""
    path = folder / "good"
    path.write_bytes(data)
    return path


def test_damaged_checkpoint_and_trace(x, train, interrupting, tmp_path):
    progress, error = interrupting
    checkpoint, trace = tmp_path / "c", tmp_path / "t.jsonl"
    options = {"checkpoint": checkpoint, "trace_path": trace, "resume": True}
    with pytest.raises(error):
        train(x, **options, progress=progress(2))
    good = checkpoint.read_bytes()
    for damage in (b"", b"junk", good[:-9]):
        checkpoint.write_bytes(damage)
        with pytest.raises(CorruptIndexError, match="is not a checkpoint"):
            train(x, **options)
    for tensors, facts in (
        (load(good), {}),
        ({"generator": load(good)["generator"]}, None),
        ({**load(good), "generator": torch.zeros(3)}, None),
    ):
        with safe_open(checkpoint_of(good, tmp_path), framework="pt") as file:
            metadata = file.metadata() if facts is None else {"hyperpq": json.dumps(facts)}
        checkpoint.write_bytes(save(tensors, metadata=metadata))
        with pytest.raises(CorruptIndexError, match="is not a checkpoint"):
            train(x, **options)
    checkpoint.write_bytes(good)
    trace.write_text('{"epoch": 0}\n{"epo')
    with pytest.raises(TrainingError, match="isn't the trace"):
        train(x, **options)
