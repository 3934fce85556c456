"""The Triton kernels in Triton's interpreter, beside PyTorch: `test_triton.py` runs this file.

The interpreter is chosen when the kernels are imported, so this is a process of its own.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scan_cases import KINDS, make_tables

from hyperpq.codes import CodeSegment, pack, row_bits
from hyperpq.scan import prepare, reference
from hyperpq.scan.cuda import CudaScanner, search
from hyperpq.scan.cuda.bounds import Bounds
from hyperpq.scan.cuda.kernels import TritonPasses
from hyperpq.scan.cuda.passes import TorchPasses
from hyperpq.scan.cuda.piece import Piece

# Small blocks, so that few rows have several, and the last is no whole one.
SMALL = TritonPasses(block=256)
OTHER_WAY = dataclasses.replace(SMALL, gather_one="shared", gather_four="cache")


def make_piece(rng, n, M, K, share):
    codes = pack(rng.integers(0, K, (n, M)).astype(np.uint8), 8 if K == 256 else 4)
    data, bits = torch.from_numpy(prepare(codes).data), None
    if share is not None:
        bits = torch.from_numpy(row_bits(rng.random(n) < share).view(np.uint8))
    return Piece(data, n, codes.shape[1], bits, n)


@pytest.mark.parametrize("passes", [SMALL, OTHER_WAY], ids=["chosen", "other way"])
@pytest.mark.parametrize("nq", [1, 6])
@pytest.mark.parametrize(
    "n, M, K, share", [(777, 5, 256, None), (4500, 3, 16, 0.5), (200, 300, 256, None)]
)
def test_the_same_rows_survive(passes, nq, n, M, K, share):
    rng = np.random.default_rng(n)
    piece = make_piece(rng, n, M, K, share)
    tables = torch.from_numpy(rng.random((nq, M, K)).astype(np.float32))
    # One query lets all rows pass, and there is room for some of them; others let none pass.
    theta = torch.linspace(0.2 * M, 0.4 * M, nq)
    theta[1::3] = -1
    theta[-1] = np.inf
    bounds = Bounds.of(tables, theta)
    want_rows, want_counts = TorchPasses().survivors(piece, bounds, 1024)
    rows, counts = passes.survivors(piece, bounds, 1024)
    assert rows.shape == (nq, 1024)
    assert counts.tolist() == want_counts.tolist()
    for q in range(nq):
        mine = rows[q][rows[q] >= 0].tolist()
        assert len(set(mine)) == len(mine) == min(int(counts[q]), 1024)
        if counts[q] <= 1024:
            assert sorted(mine) == want_rows[q, : counts[q]].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", [16, 256])
def test_the_same_distances(kind, K):
    rng = np.random.default_rng(KINDS.index(kind))
    piece = make_piece(rng, 4500, 3, K, None)
    tables = torch.from_numpy(make_tables(rng, kind, (2, 3, K)))
    tables[0, :, : K // 2] = -0.0  # a sum of which keeps its sign
    rows = torch.from_numpy(rng.integers(-1, 4500, (2, 300)).astype(np.int32))
    for some in (rows, rows[:1].expand(2, -1)):
        want = TorchPasses().distances(piece, tables, some)
        found = SMALL.distances(piece, tables, some)
        assert torch.equal(found.view(torch.int32), want.view(torch.int32))
    assert SMALL.distances(piece, tables, rows[:, :0]).shape == (2, 0)


def test_many_rows_are_counted_beyond_the_room_for_them():
    piece = make_piece(np.random.default_rng(0), 600, 2, 256, None)
    bounds = Bounds.of(torch.rand(5, 2, 256), torch.full((5,), torch.inf))
    rows, counts = SMALL.survivors(piece, bounds, 16)
    assert counts.tolist() == [600] * 5
    assert (rows >= 0).all()


def test_a_search_is_the_reference(monkeypatch):
    monkeypatch.setattr(search, "FEW_ROWS", 64)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (3000, 4)).astype(np.uint8)
    ids = rng.permutation(3000).astype(np.int64)
    segments = [
        CodeSegment(prepare(codes[:2500]), ids[:2500], row_bits(rng.random(2500) < 0.7)),
        CodeSegment(prepare(codes[2500:]), ids[2500:]),
    ]
    for kind in ("squares", "ties"):
        tables = make_tables(rng, kind, (5, 4, 256))
        want = reference.search_segments(tables, segments, 10, threads=1)
        for devices in (["cpu"], ["cpu", "cpu"]):
            found = CudaScanner(devices, memory=9000).search_segments(tables, segments, 10)
            np.testing.assert_array_equal(found[0], want[0])
            np.testing.assert_array_equal(found[1], want[1])
        radius = float(np.median(want[0]))
        within = reference.range_search_segments(tables, segments, radius)
        found = CudaScanner(["cpu"]).range_search_segments(tables, segments, radius)
        for mine, theirs in zip(found, within, strict=True):
            np.testing.assert_array_equal(mine, theirs)
