"""The trace: code statistics, its file, and what it has of every epoch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hyperpq.training.trace import Trace, code_statistics, is_collapsed


def test_trace_has_every_field_of_every_epoch(x, train, tmp_path):
    path = tmp_path / "trace.jsonl"
    codec = train(x, trace_path=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        assert set(line) >= {
            "epoch",
            "losses",
            "lr",
            "used",
            "entropy",
            "curvature",
            "radius",
            "moved",
        }
        names = {"total", "contrastive"} | ({"prototype", "neighbour"} if line["epoch"] else set())
        assert set(line["losses"]) == names
        parts = line["losses"]
        want = parts["contrastive"]
        if line["epoch"]:
            want += parts["prototype"] + 0.1 * parts["neighbour"]
        assert parts["total"] == pytest.approx(want, abs=1e-4)
        assert all(len(line[name]) == 2 for name in ("used", "entropy", "curvature"))
        assert all(1 <= used <= 16 for used in line["used"])
        assert all(0 <= entropy <= 4 for entropy in line["entropy"])
    np.testing.assert_allclose(lines[-1]["curvature"], codec.quantizer.c.detach(), atol=1e-6)
    # The cosine ends at 0.
    assert lines[-1]["lr"] == pytest.approx(0, abs=1e-9)


def test_code_statistics_of_known_codes():
    codes = torch.tensor([[0, 5], [0, 6], [1, 7], [1, 8]])
    assert code_statistics(codes, 16) == {"used": [2, 4], "entropy": [1.0, 2.0]}
    assert not is_collapsed(codes, 16)
    assert is_collapsed(torch.zeros(40, 3), 16)
    half = torch.zeros(40, 2)
    half[:, 1] = torch.arange(40) % 16
    assert not is_collapsed(half, 16)


def test_trace_goes_on_from_an_epoch(tmp_path):
    path = tmp_path / "t"
    path.write_text("".join(json.dumps({"epoch": e}) + "\n" for e in range(4)))
    Trace(path, 2).add(epoch=2, new=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2, "new": True}]
