"""Fixtures of indexes with trained codecs."""

from __future__ import annotations

import pytest
from index_tools import D_IN, KINDS, SMALL, X

from hyperpq import HiHPQIndex


@pytest.fixture(scope="module")
def codecs():
    """One trained codec of each kind."""
    out = {}
    for M, nbits, metric in KINDS:
        index = HiHPQIndex(D_IN, M, nbits, metric=metric, device="cpu")
        index.train(X, recipe=SMALL)
        out[M, nbits, metric] = index.codec
    return out


@pytest.fixture(scope="session")
def trained():
    """A trained index of each kind of codec."""
    made = {
        "l1": HiHPQIndex(D_IN, 4, device="cpu"),
        "nibbles": HiHPQIndex(D_IN, 3, 4, metric="chord", device="cpu"),
        "fidelity": HiHPQIndex(D_IN, 4, device="cpu"),
        "l2": HiHPQIndex(D_IN, 4, metric="l2", device="cpu"),
        "ip": HiHPQIndex(D_IN, 4, metric="ip", device="cpu"),
    }
    made["l1"].train(X, recipe=SMALL)
    made["nibbles"].train(X, recipe=SMALL)
    made["fidelity"].train(X, objective="fidelity", epochs=1)
    made["l2"].train(X)
    made["ip"].train(X)
    return made


@pytest.fixture
def make(codecs):
    """Make an index with a trained codec, empty or filled."""

    def build(x=None, ids=None, kind=KINDS[0]):
        index = HiHPQIndex(D_IN, kind[0], kind[1], metric=kind[2], device="cpu")
        index.codec = codecs[kind]
        if x is not None:
            index.add(x, ids)
        return index

    return build


@pytest.fixture(params=["memory", "disk"])
def filled(request, make, tmp_path):
    index = make(X)
    if request.param == "disk":
        index.save(tmp_path / "filled")
    return index
