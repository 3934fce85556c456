"""Unused codewords and collapsed codes."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from hyperpq.codec.config import CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.errors import TrainingError
from hyperpq.training import initialize
from hyperpq.training import train as trainer
from hyperpq.training.repair import move_unused_codewords
from hyperpq.training.trace import code_statistics


def test_unused_codewords_move_to_features_that_are_far_from_theirs():
    codec = HiHPQCodec(CodecConfig(4, 2, 4, 2))
    v = torch.zeros(20, 2, 2)
    v[:, 0] = torch.arange(20.0)[:, None]
    v[5, 1] = torch.tensor([3.0, 4.0])
    codes = torch.zeros(20, 2, dtype=torch.long)
    codes[:8, 0] = 3
    before = codec.quantizer.codebooks.detach().clone()
    moved = move_unused_codewords(codec, v, codes, torch.Generator().manual_seed(0))
    after = codec.quantizer.codebooks.detach()
    # Subspace 0: codewords 0 and 3 are in use, the 14 others move to different features.
    assert sorted(moved[0].tolist()) == sorted(set(range(16)) - {0, 3})
    rows = {tuple(word.tolist()) for word in after[0, moved[0]]}
    assert len(rows) == 14
    assert rows <= {tuple(row.tolist()) for row in v[:, 0]} - {(0.0, 0.0)}
    torch.testing.assert_close(after[0, [0, 3]], before[0, [0, 3]])
    # Subspace 1: a single feature isn't on its codeword, so a single codeword moves.
    assert len(moved[1]) == 1
    torch.testing.assert_close(after[1, moved[1][0]], v[5, 1])


def spoil(codec):
    """Codebooks far from the features but for one codeword: every feature gets its code."""
    with torch.no_grad():
        codec.quantizer.codebooks.fill_(100.0)
        codec.quantizer.codebooks[:, 3] = 0.0


def test_collapsed_codebooks_are_fitted_again_and_logged(x, train, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "learn", lambda codec, *rest: spoil(codec))
    with caplog.at_level(logging.WARNING):
        codec = train(x)
    assert "collapsed in training" in caplog.text
    assert min(code_statistics(torch.tensor(codec.encode(x)), 256)["used"]) > 12


def test_collapse_beyond_repair_is_an_error(x, train, monkeypatch):
    def collapse(codec, *rest):
        with torch.no_grad():
            codec.weight.zero_()

    monkeypatch.setattr(trainer, "learn", collapse)
    with pytest.raises(TrainingError, match="collapsed to almost one"):
        train(x)


def test_unused_codewords_come_back_and_that_is_logged(
    x, small, train, monkeypatch, caplog, tmp_path
):
    fit = initialize.initialize_codebooks

    def unused(codec, *rest):
        fit(codec, *rest)
        with torch.no_grad():
            codec.quantizer.codebooks[:, 8:] = 100.0

    monkeypatch.setattr(initialize, "initialize_codebooks", unused)
    with caplog.at_level(logging.INFO):
        codec = train(x, trace_path=tmp_path / "t")
        lines = [json.loads(line) for line in (tmp_path / "t").read_text().splitlines()]
    assert "unused codewords" in caplog.text
    assert lines[0]["moved"] > 0
    assert min(lines[0]["used"]) <= 9
    assert min(lines[-1]["used"]) > 12
    assert min(code_statistics(torch.tensor(codec.encode(x) % 16), 16)["used"]) > 8
    train(x, small.replace(repair=False), trace_path=tmp_path / "t")
    last = json.loads((tmp_path / "t").read_text().splitlines()[-1])
    assert last["moved"] == 0
    assert max(last["used"]) <= 9
