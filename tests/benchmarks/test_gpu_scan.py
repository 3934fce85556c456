"""`benchmarks.gpu_scan` on the CPU, with few rows."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch

from benchmarks import gpu_page, gpu_peers
from benchmarks import gpu_scan as bench

pytest.importorskip("faiss")


def run(tmp_path, *more):
    words = ["--device", "cpu", "--limit", "2000", "--sizes", "2", "--rounds", "2"]
    bench.main([*words, "--cache", str(tmp_path / "runs.jsonl"), "--out", str(tmp_path), *more])


def test_the_page_and_a_run_that_goes_on(tmp_path, capsys, monkeypatch):
    run(tmp_path)
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# On a GPU\n\nOn one CPU, a search of 2,000 codes of 2 bytes compares")
    assert "| clustered, 2,000 x 2 bytes, 64 queries |" in page
    assert "| random, 2,000 x 2 bytes, one query |" in page
    assert "times the rate of `IndexIVFPQ`" in page
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(lines) == 4  # two kinds of data, two batches
    for line in lines:
        for name, rate in line["rates"].items():
            assert rate["median"] > 0
            has_ids = name in (gpu_page.OURS, "IndexIVFPQ") and line["data"] == "clustered"
            assert (rate["recall"] is not None) == has_ids
    assert capsys.readouterr().out.count("batch") == 4
    # What is measured is not measured again.
    monkeypatch.setattr(bench, "measure", None)
    run(tmp_path)
    assert (tmp_path / "gpu.md").read_text() == page


def test_codes_and_recall_of_vectors(monkeypatch):
    """Vectors in several batches; the truth is that of a brute force."""
    monkeypatch.setattr(bench, "AT_ONCE", 700)
    held = bench.clustered_codes(1500, 4, "cpu", True)
    x = torch.cat(list(bench.Vectors(1500, 4, "cpu").batches())).numpy()
    assert x.shape == (1500, 32)
    gap = ((held.queries[:, None].astype(np.float64) - x) ** 2).sum(2)
    np.testing.assert_array_equal(np.sort(held.truth), np.sort(gap.argsort(1)[:, :10]))
    case = bench.Case("CPU", "clustered", 1500, 4, 64)
    rates = bench.measure(case, held, "cpu", 1)
    assert set(rates) == {"hyperpq", "hyperpq, the pass alone", "every byte once", "IndexIVFPQ"}
    assert rates["hyperpq"]["recall"] > 0.3
    assert rates["IndexIVFPQ"]["recall"] > 0.3


def test_a_billion_rows_have_no_vectors():
    chosen = bench.cases("H100", (8,), None)
    assert {case.data for case in chosen if case.n == 10**9} == {"random"}
    assert max(case.n for case in chosen if case.data == "clustered") == 10**8


def test_cuvs_is_asked_for_all_lists(monkeypatch):
    """A stand-in of cuVS with its documented functions records how it is called."""
    calls = []
    module = types.SimpleNamespace(
        IndexParams=lambda **settings: settings,
        SearchParams=lambda **settings: settings,
        build=lambda settings, sample: calls.append(settings) or [sample[:0]],
        extend=lambda index, batch, ids: [*index, (batch, ids)],
        search=lambda how, index, queries, k: (
            calls.append(how) or (None, index[2][1][:k].expand(len(queries), -1))
        ),
    )
    monkeypatch.setitem(sys.modules, "cuvs", types.ModuleType("cuvs"))
    monkeypatch.setitem(sys.modules, "cuvs.neighbors", types.SimpleNamespace(ivf_pq=module))
    peer = gpu_peers.cuvs_peer(torch.zeros(9, 8), [torch.zeros(5, 8), torch.zeros(4, 8)], 2, 3)
    assert peer(np.zeros((2, 8), np.float32), 2).tolist() == [[5, 6], [5, 6]]
    assert [(call.get("n_lists"), call.get("n_probes")) for call in calls] == [(3, None), (None, 3)]
    assert calls[0]["add_data_on_build"] is False


def test_a_page_without_runs_has_no_section(tmp_path):
    assert gpu_page.scan_section(tmp_path) is None
