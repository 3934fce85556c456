"""`benchmarks.scan` on small collections."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import scan as bench
from benchmarks import scan_page
from hyperpq import scan

pytest.importorskip("faiss")
pytest.importorskip("matplotlib")


@pytest.fixture
def small(monkeypatch):
    cases = {
        bench.PLOTTED: [bench.Case("clustered", 2000, 2, batch) for batch in (1, 64)],
        "Data": [bench.Case("uniform", 2000, 2, 64), bench.Case("real", 2000, 2, 64)],
    }
    monkeypatch.setattr(bench, "cases_by_section", lambda quick: cases)


def test_the_page_and_a_run_that_goes_on(small, tmp_path, capsys, monkeypatch):
    arguments = ["--rounds", "2", "--cache", str(tmp_path / "runs.jsonl"), "--out", str(tmp_path)]
    bench.main(arguments)
    page = (tmp_path / "scan.md").read_text()
    assert "| clustered, 2,000 x 2 bytes, batch 64, k 10, 1 thread |" in page
    assert "| uniform, 2,000 x 2 bytes" in page
    assert "| real" not in page  # there is no cache of features
    assert "over IndexPQ" in page
    assert page.startswith("# The scan\n\nWith 2,000 codes of 2 bytes and one thread, the scan of")
    assert "Of 3 cases, `IndexPQ` is ahead in" in page
    assert page.partition("## How this page is made")[2].count("Measured on") == 1
    assert ElementTree.parse(tmp_path / "scan.svg").getroot().tag.endswith("svg")
    assert "portable" in capsys.readouterr().out
    # What is measured is not measured again.
    monkeypatch.setattr(bench, "measure", None)
    bench.main(arguments)
    assert (tmp_path / "scan.md").read_text() == page


def test_a_page_is_not_made_shorter(small, tmp_path, monkeypatch):
    bench.main(["--rounds", "1", "--out", str(tmp_path)])
    page = (tmp_path / "scan.md").read_text()
    less = {"Data": [bench.Case("uniform", 2000, 2, 64)]}
    monkeypatch.setattr(bench, "cases_by_section", lambda quick: less)
    with pytest.raises(SystemExit, match=r"scan\.md has cases that .* \(Collections and len"):
        bench.main(["--rounds", "1", "--out", str(tmp_path)])
    assert (tmp_path / "scan.md").read_text() == page


def test_all_methods_answer_the_same_question():
    case = bench.Case("clustered", 3000, 4, 64)
    held = bench.fill(case, None)
    D = held.pq.search(held.queries[:64], 10)[0]
    rates = bench.measure(case, held, bench.compiled_levels(), 1)
    assert all(rate.median > 0 for rate in rates.values())
    np.testing.assert_allclose(
        scan.search(held.tables[:64], held.codes, 10)[0], D, rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
def test_codes_of_a_trained_codec_are_searched_beside_faiss(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "CODEC_EPOCHS", 1)
    monkeypatch.setattr(bench, "CODEC_ROWS", 400)
    cache = tmp_path / "cifar10-ii-drawn"
    cache.mkdir()
    x = np.abs(np.random.default_rng(0).normal(size=(1500, 24))).astype(np.float32)
    np.save(cache / "database.npy", x)
    case = bench.Case("default codec", 1200, 2, 8)
    held = bench.fill(case, tmp_path)
    assert (len(held.codes), held.codes.code_size, held.pq.ntotal) == (1200, 2, 1200)
    assert held.tables.shape == (512, 2, 256)
    rates = bench.measure(case, held, ["portable"], 1)
    assert set(rates) >= {"portable", bench.INDEX_PQ, bench.FAST_SCAN}


def test_the_page_compares_avx2_with_avx2():
    rate = {"avx512vbmi": 9e9, "avx2": 3e9, bench.INDEX_PQ: 1e8, bench.FAST_SCAN: 4e9}
    rate |= {bench.FAST_SCAN_AVX2: 2e9, bench.IVF_FAST_SCAN: 9e9, bench.EVERY_BYTE: 5e9}
    results = {bench.Case("clustered", 9, 8): {n: bench.Rate(r, 0.0) for n, r in rate.items()}}
    table = scan_page._table(results)
    assert "avx2 over FastScan, AVX2" in table.splitlines()[0]
    assert "**2.2** | **1.8** | **1.5** |" in table
    assert "With AVX2 alone for both, FastScan is ahead in 0." in scan_page.findings(results)
