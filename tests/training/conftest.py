"""What the tests of training share: features in clusters, a quick recipe, a way to interrupt."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from hyperpq.progress import SilentProgress
from hyperpq.training.recipe import Recipe
from hyperpq.training.task import TrainingRun
from hyperpq.training.train import train_codec


@pytest.fixture(scope="session")
def clustered():
    """Makes features (n, d) in clusters, and their labels."""

    def make(n=300, d=16, clusters=20, noise=1.0, seed=0):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(clusters, d)) * 2
        labels = rng.integers(0, clusters, n)
        return (centers[labels] + rng.normal(size=(n, d)) * noise).astype(np.float32), labels

    return make


@pytest.fixture(scope="session")
def x(clustered):
    return clustered()[0]


@pytest.fixture(scope="session")
def joint():
    """As published in structure: learned at the code's own length, without graph and branch."""
    return Recipe().replace(
        subspaces=0,
        beta=20.0,
        temperature=0.5,
        continuous_weight=0.0,
        quantized_weight=1.0,
        graph_neighbours=0,
        graph_steps=0,
        walk_steps=0,
        positive_weight=1.0,
        prototype_weight=1.0,
        neighbour_weight=0.1,
        holdout_check=False,
        batch=128,
    )


@pytest.fixture(scope="session")
def small(joint):
    return joint.replace(width=8, epochs=4, warmup_epochs=1, batch=64, levels=(20, 5))


@pytest.fixture(scope="session")
def train(small):
    """Trains codes of 2 subspaces and 4 bits."""

    def trained(x, recipe=small, **options):
        run = {f.name: options.pop(f.name) for f in fields(TrainingRun) if f.name in options}
        codes = {"M": 2, "nbits": 4, "run": TrainingRun(**run)}
        return train_codec(x, recipe=recipe, **codes, **options)

    return trained


class KilledError(Exception):
    """A kill between two epochs."""


class InterruptingProgress(SilentProgress):
    """Raises once ``epochs`` are done."""

    def __init__(self, epochs):
        super().__init__()
        self.left = epochs
        self.losses = []

    def _open(self, name, total, unit):
        return self

    def advance(self, n=1, **facts):
        self.left -= n
        if facts:
            self.losses.append(facts["loss"])
        if self.left < 0 or (self.left == 0 and facts):
            raise KilledError


@pytest.fixture
def interrupting():
    """Progress that interrupts a training after some epochs, and the error that it raises."""
    return InterruptingProgress, KilledError
