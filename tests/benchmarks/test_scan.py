"""`benchmarks.scan` on small collections."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import scan as bench
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


def test_the_page(small, tmp_path, capsys):
    bench.main(["--rounds", "2", "--out", str(tmp_path)])
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
