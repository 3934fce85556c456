"""What an index scans with: every search asks the scanner, and all scanners answer alike."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from index_tools import QUERIES, X, make_x

from hyperpq import HiHPQIndex, IDSelectorRange, SearchParameters, scan
from hyperpq.diagnostics import describe_environment
from hyperpq.scan.cuda import CudaScanner, DeviceMemory, memory_of, scanner, search
from hyperpq.scan.scanner import CpuScanner, scanner_for


class Counting:
    """A scanner that counts its calls, by the scan on the CPU or another one."""

    def __init__(self, inner=None):
        self.inner, self.calls = inner or CpuScanner(), 0

    def search_segments(self, *arguments, **options):
        self.calls += 1
        return self.inner.search_segments(*arguments, **options)

    def range_search_segments(self, *arguments, **options):
        self.calls += 1
        return self.inner.range_search_segments(*arguments, **options)


@pytest.fixture(params=["l1", "nibbles", "fidelity", "l2"])
def index(request, trained):
    """Several segments, some rows deleted, copies and attributes."""
    source = trained[request.param].codec
    out = HiHPQIndex.from_codec(source, device="cpu", features="int8")
    x = np.concatenate([X, X[:5], make_x(400, seed=3)])
    for start in range(0, len(x), 235):
        some = np.arange(start, min(start + 235, len(x)))
        out.add(x[some], some * 3, attributes={"width": some % 50})
    out.remove_ids(np.arange(30, 90, 3))
    return out


ASKED = [
    {},
    {"where": "width < 20"},
    {"params": SearchParameters(sel=IDSelectorRange(0, 600))},
    {"where": "width > 1000"},
]


def answers(index):
    """What all searches of an index return."""
    queries, out = np.concatenate([QUERIES, X[:6]]), []
    for asked in ASKED:
        D, I = index.search(queries, 9, **asked)  # noqa: E741
        out += [D, I]
        out += index.range_search(queries, float(np.median(D[:, -1])), **asked)
        out += index.search_similar(queries, 9, **asked)
        for refine in (7, "auto"):
            out += index.search(queries, 9, refine=refine, **asked)
            out += index.search_similar(queries, 9, refine=refine, **asked)
    out += index.search(queries, 1000)
    out += index.search_and_reconstruct(queries, 4)
    out += index.view().search(queries[0], 3)
    out.append(index.similarity(queries, out[0]))
    return out


def assert_equal(found, want):
    for mine, theirs in zip(found, want, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_every_search_has_the_answers_of_the_cpu(index, monkeypatch, tmp_path):
    monkeypatch.setattr(search, "FEW_ROWS", 16)
    want = answers(index)
    for of_torch in (
        CudaScanner(["cpu"], "torch"),
        CudaScanner(["cpu", "cpu"], "torch", memory=1000),
    ):
        index.scanner = of_torch
        assert_equal(answers(index), want)
    index.save(tmp_path / "index")
    assert index.scanner is of_torch
    assert_equal(answers(index), want)


def test_no_search_passes_the_scanner_by(trained, monkeypatch):
    """Also those that a calibration and a number of candidates need."""
    # Another object, of which nothing has been measured yet.
    codec = copy.deepcopy(trained["l1"].codec)
    index = HiHPQIndex.from_codec(codec, device="cpu", features="int8")
    index.add(np.concatenate([X, X[:1].repeat(20, 0)]))
    index.scanner = counted = Counting(CudaScanner(["cpu"], "torch"))
    for name in ("search_segments", "range_search_segments"):
        monkeypatch.setattr(scan, name, None)
    answers_of = {
        "search": lambda: index.search(QUERIES, 3),
        "radius": lambda: index.range_search(QUERIES, 1.0),
        "similar": lambda: index.search_similar(QUERIES, 3, where="id < 90"),
        "copies": lambda: index.search_similar(X[:1], 3),
        "refined": lambda: index.search(QUERIES, 3, refine="auto"),
        "similarity": lambda: index.similarity(np.flip(X) * 9, np.ones((len(X), 2))),
    }
    for name, ask in answers_of.items():
        before = counted.calls
        ask()
        assert counted.calls > before, name


def test_a_scanner_belongs_to_an_index_and_its_copies(make):
    index = make(X)
    assert index.scanner == CpuScanner()
    index.scanner = other = CudaScanner(["cpu"], "torch")
    for copied in (copy.copy(index), copy.deepcopy(index), index.clone(), index.with_bits(8)):
        assert copied.scanner == other
    assert pickle.loads(pickle.dumps(index)).scanner == other
    assert index.view().rows.scanner is other
    index.scanner = CpuScanner()
    assert index.view().rows.scanner == CpuScanner()


def test_the_device_of_an_index_says_what_scans(make, monkeypatch, tmp_path):
    monkeypatch.setattr(scanner, "resolve_device", lambda name: name)
    assert scanner_for("cuda:1") == CudaScanner(["cuda:1"])
    index = make(X)
    index.save(tmp_path / "index")
    made = []
    monkeypatch.setattr(
        "hyperpq.index.holder.scanner_for", lambda device: made.append(device) or CpuScanner()
    )
    HiHPQIndex(12, device="cpu")
    HiHPQIndex.from_codec(index.codec, device="cpu")
    HiHPQIndex.load(tmp_path / "index", device="cpu")
    assert made == ["cpu"] * 3


def test_info_says_what_scans_on_a_gpu(monkeypatch):
    monkeypatch.setattr("hyperpq.utils.devices.resolve_device", lambda name: "cuda:0")
    kernels = describe_environment()["scan kernels"]
    assert str(kernels["cuda:0"]).startswith("of indexes on the GPU: ")
    monkeypatch.setattr("hyperpq.utils.devices.resolve_device", lambda name: "cpu")
    assert describe_environment()["scan kernels"] == scan.levels()


def test_rows_that_change_are_searched_as_they_are(make):
    index = make(X)
    index.scanner, cpu = CudaScanner(["cpu"], "torch"), CpuScanner()

    def check():
        found = index.search(QUERIES, 5)
        other = copy.copy(index)
        other.scanner = cpu
        assert_equal(found, other.search(QUERIES, 5))

    check()
    index.remove_ids(index.search(QUERIES, 1)[1][:, 0])
    check()
    index.add(QUERIES)
    check()
    index.compact()
    check()
    assert memory_of("cpu").held_bytes > 0


def test_codes_stay_on_the_device_when_rows_of_a_directory_are_deleted(make, tmp_path, monkeypatch):
    index = make(X)
    index.save(tmp_path / "index")
    index.scanner = CudaScanner(["cpu"], "torch")
    uploads = []
    upload = DeviceMemory._upload
    monkeypatch.setattr(
        DeviceMemory, "_upload", lambda self, data: uploads.append(len(data)) or upload(self, data)
    )
    first = index.search(QUERIES, 3)[1][:, 0]
    index.remove_ids(first)
    assert not np.isin(index.search(QUERIES, 3)[1], first).any()
    codes, bits = uploads
    assert codes == 3 * 320  # once, in blocks of 64 rows
    assert bits == 40
    reader = HiHPQIndex.load(tmp_path / "index", device="cpu")
    reader.scanner = index.scanner
    reader.search(QUERIES, 3)
    index.remove_ids(index.ids[:2])
    reader.refresh()
    uploads.clear()
    reader.search(QUERIES, 3)
    assert uploads == [40]


def test_a_scanner_of_the_cpu_loads_neither_triton_nor_the_scan_of_gpus():
    code = (
        "import sys, hyperpq.index.searcher; from hyperpq.scan.scanner import scanner_for; "
        "scanner_for('cpu'); assert not {'torch', 'triton', 'hyperpq.scan.cuda'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
