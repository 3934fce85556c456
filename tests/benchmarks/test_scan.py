"""`benchmarks.scan`: real searches of small collections, and the page that they make."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest


@pytest.fixture
def small(monkeypatch):
    from benchmarks import scan as bench

    pytest.importorskip("faiss")
    pytest.importorskip("matplotlib")
    asked = {
        "Collections and lengths": [bench.Case("clustered", 2000, 2, batch) for batch in (1, 64)],
        "Data": [bench.Case("uniform", 2000, 2, 64), bench.Case("real", 2000, 2, 64)],
    }
    monkeypatch.setattr(bench, "questions", lambda quick: asked)
    return bench


def test_the_page(small, tmp_path, capsys):
    small.main(["--rounds", "2", "--out", str(tmp_path)])
    page = (tmp_path / "scan.md").read_text()
    assert "| clustered, 2,000 x 2 bytes, batch 64, k 10, 1 thread |" in page
    assert "| uniform, 2,000 x 2 bytes" in page
    assert "| real" not in page  # its features are nowhere
    assert "over IndexPQ" in page
    assert ElementTree.parse(tmp_path / "scan.svg").getroot().tag.endswith("svg")
    assert "portable" in capsys.readouterr().out


def test_all_contenders_answer_the_same_question(small):
    case = small.Case("clustered", 3000, 4, 64)
    held = small.contents(case, None)
    D = held.pq.search(held.queries[:64], 10)[0]
    rates = small.measure(case, held, small._compiled(), 1)
    assert all(rate > 0 for rate, _ in rates.values())
    from hyperpq import scan

    np.testing.assert_allclose(
        scan.search(held.tables[:64], held.tiled, 10)[0], D, rtol=1e-3, atol=1e-4
    )
