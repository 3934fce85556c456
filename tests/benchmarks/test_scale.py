"""The benchmark of cells runs, and its figures are those of the searches."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from benchmarks.runlog import RunLog
from benchmarks.scale import main
from benchmarks.scale_page import OURS, PUBLISHED, Key, write_scale_page


def test_a_small_run(tmp_path, capsys):
    arguments = ["--rows", "3000", "--nlist", "16", "--queries", "20", "--turns", "1"]
    main(["--work", str(tmp_path), *arguments])
    lines = [json.loads(line) for line in (tmp_path / "scale.jsonl").read_text().splitlines()]
    for method in ("hyperpq", "IVFPQ", "IVFPQFastScan"):
        curve = [line for line in lines if (line["method"], line["step"]) == (method, "search")]
        recalls = [line["recall"] for line in curve]
        assert (curve[0]["nprobe"], recalls[0]) == (16, 1)
        assert recalls[1:] == sorted(recalls[1:])
        assert recalls[-1] > 0.9
    (size,) = [line for line in lines if line["step"] == "bytes"]
    # Code, id and place.
    assert 20 <= size["codes"] + size["ids"] < 21
    table = capsys.readouterr().out
    assert "| hyperpq |" in table
    assert "| IVFPQFastScan |" in table
    # Another run builds nothing.
    main(["--work", str(tmp_path), *arguments, "--only", "hyperpq", "IVFPQ"])
    new = [json.loads(line) for line in (tmp_path / "scale.jsonl").read_text().splitlines()]
    new = new[len(lines) :]
    assert [line["step"] for line in new if line["step"] != "search"] == [
        "bytes",
        "open",
        "memory",
        "memory",
    ]
    for method in ("hyperpq", "IVFPQ"):
        curves = [
            [(line["nprobe"], line["recall"]) for line in some if line["step"] == "search"]
            for some in (
                [line for line in lines if line["method"] == method],
                [line for line in new if line["method"] == method],
            )
        ]
        assert curves[0] == curves[1]


def record(rows, method, nprobe, recall, rate, **more):
    """A search among so many rows and 100 cells."""
    key = {"data": "clustered", "rows": rows, "nlist": 100, "threads": 1}
    place = {"machine": "today, a processor, 2 cores", "commit": "0123456789"}
    found = {"method": method, "nprobe": nprobe, "recall": recall, "rate": rate, "step": "search"}
    return key | place | found | {"one_ms": 1000 / rate} | more


def test_the_page_has_the_figures_of_the_records(tmp_path):
    curves = {
        OURS: [(1, 0.5, 9000.0), (2, 0.9, 4000.0), (4, 1.0, 1000.0), (100, 1.0, 100.0)],
        "IVFPQ": [(1, 0.9, 400.0), (2, 1.0, 100.0), (100, 1.0, 10.0)],
        "IVFPQFastScan": [(1, 0.9, 500.0), (100, 1.0, 10.0)],
    }
    runs = [
        record(rows, method, *point)
        for rows in (1000, 10_000)
        for method, points in curves.items()
        for point in points
    ]
    runs.append(record(1000, OURS, 0, 1.0, 250.0, step="add"))
    RunLog(tmp_path / PUBLISHED, Key._fields).update(runs)
    page = write_scale_page(tmp_path).read_text("utf-8")
    # Halfway between the two searches beside it, by the logarithm: the root of their product.
    assert (
        "Of 1,000 codes a search of cells answers 2,000 queries a second at a recall@10 of .95, "
        "20.0 times as many as the exhaustive scan and 10.0 times as many as IVFPQ; a single query "
        "takes 0.50 ms."
    ) in page
    assert "| IVFPQ | 1 | .900 | 400 | 2.50 |" in page
    assert "| codes added a second | 250.0 |  |" in page
    assert "at commit 0123456789" in page or "0123456" in page
    for image in ("scale-clustered-1000-100-1.svg", "scale-growth-clustered.svg"):
        assert f"]({image})" in page
        ElementTree.parse(tmp_path / image)
