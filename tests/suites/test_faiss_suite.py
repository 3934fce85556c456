"""FAISS's own tests, untouched, against indexes of hyperpq, with `faiss_names` in place of FAISS.

The tests are not part of hyperpq: ``HYPERPQ_FAISS_TESTS`` names a folder with them, and without it
they are skipped. Each file runs in a process of its own, with plain codebooks (`PQCodec`) and with
a learned codec. What differs from FAISS is listed with its reason in ``faiss_differences.toml``: a
test that fails and is not listed is a fault, and so is one that is listed and passes.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperpq import HiHPQIndex

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest needs this package.
    import tomli as tomllib

HERE = Path(__file__).parent
VARIABLE = "HYPERPQ_FAISS_TESTS"
REASON = (
    f"{VARIABLE} is not set: git clone https://github.com/facebookresearch/faiss, then "
    f"{VARIABLE}=faiss/tests python -m pytest tests/suites/test_faiss_suite.py"
)
# Selectors, merging, removal, copies and files, with both codecs.
FILES = (
    "test_search_params.py", "test_merge_index.py", "test_clone.py", "test_io.py",
    "test_index_composite.py",
)  # fmt: skip
# Codes, accuracy, reconstruction and range search, with plain codebooks as FAISS has them.
PLAIN_FILES = (
    "test_standalone_codec.py", "test_index.py",
    "test_index_accuracy.py", "test_meta_index.py", "test_referenced_objects.py",
    "test_swig_wrapper.py", "test_build_blocks.py",
)  # fmt: skip
CODECS = ("pq", "hihpq")
RUNS = [(file, codec) for codec in CODECS for file in FILES] + [
    (file, "pq") for file in PLAIN_FILES
]

with (HERE / "faiss_differences.toml").open("rb") as _file:
    DIFFERENCES: list[dict[str, Any]] = tomllib.load(_file)["difference"]


def patterns(codec: str, run: bool = True) -> dict[str, str]:
    """Patterns of the tests that differ with a codec, and the kind of each difference."""
    return {
        pattern: entry["kind"]
        for entry in DIFFERENCES
        if codec in entry.get("codecs", CODECS) and entry.get("run", True) == run
        for pattern in entry["tests"]
    }


def kind_of(test: str, kinds: dict[str, str]) -> str | None:
    found = {kind for pattern, kind in kinds.items() if fnmatch.fnmatchcase(test, pattern)}
    assert len(found) <= 1, f"{test} is listed as {found}"
    return found.pop() if found else None


def outcomes(file: str, codec: str, folder: Path, report: Path) -> dict[str, dict[str, Any]]:
    """What each test of a file did; the tests that cannot say anything are not run."""
    # FAISS's tests leave files in the temporary directory.
    environment = os.environ | {
        "TMPDIR": str(report.parent),
        "HYPERPQ_SUITE_CODEC": codec,
        "HYPERPQ_SUITE_REPORT": str(report),
        "HYPERPQ_SUITE_NOT_RUN": "\n".join(patterns(codec, run=False)),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(folder), os.environ.get("PYTHONPATH", "")]),
    }
    options = ["-p", "faiss_plugin", "-p", "no:cacheprovider", "-q", "--rootdir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder / file)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(report.read_text("utf-8"))
    return found


@pytest.mark.skipif(VARIABLE not in os.environ, reason=REASON)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("file", "codec"), RUNS)
def test_faiss(file, codec, tmp_path, record_property):
    folder = Path(os.environ[VARIABLE]).resolve()
    if not (folder / file).exists():
        pytest.fail(f"{folder} has no {file}; expected the folder tests of FAISS.")
    found = outcomes(file, codec, folder, tmp_path / "report.json")
    kinds = patterns(codec)
    counts: Counter[str] = Counter()
    wrong = []
    for test, what in sorted(found.items()):
        kind = kind_of(test, kinds)
        if what["outcome"] == "passed":
            # One that reaches no index tests FAISS's own helpers.
            counts["passed" if what["calls"] else "without an index"] += 1
            if kind:
                wrong.append(f"{test} passes and is listed as: {kind}")
        elif what["outcome"] == "skipped":
            counts["skipped"] += 1
        else:
            counts[f"differs: {kind}"] += 1
            if not kind:
                wrong.append(f"{test} fails: {what.get('error')}")
    unused = [
        pattern
        for pattern in kinds
        if pattern.startswith(f"{file}::") and not fnmatch.filter(found, pattern)
    ]
    record_property("counts", dict(counts))
    print(f"\n{file}, {codec}: {dict(counts)}")
    assert not unused, f"listed tests that do not exist: {unused}"
    assert not wrong, "\n".join(wrong)


def test_each_difference_has_a_reason_that_the_documentation_gives():
    """Each kind is a row of the table in the documentation."""
    page = (HERE.parents[1] / "docs/reference/faiss.md").read_text("utf-8")
    kinds = {entry["kind"] for entry in DIFFERENCES}
    missing = {kind for kind in kinds if f"| {kind} |" not in page}
    assert not missing
    assert all(entry["reason"].endswith(".") and entry["tests"] for entry in DIFFERENCES)
    files = FILES + PLAIN_FILES
    assert all(test.split("::")[0] in files for entry in DIFFERENCES for test in entry["tests"])


@pytest.mark.parametrize("codec", CODECS)
def test_the_adapter_translates_names_and_adds_nothing(codec, monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("HYPERPQ_SUITE_CODEC", codec)
    faiss = importlib.import_module("faiss_names").Faiss()
    x = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    index = faiss.index_factory(16, "IDMap,PQ4x8np")
    assert not index.is_trained
    index.train(x)
    index.add_with_ids(x, np.arange(400) + 7)
    ours = HiHPQIndex.from_codec(index.ours.codec, device="cpu")
    ours.add(x, np.arange(400) + 7)
    params = faiss.SearchParameters(sel=faiss.IDSelectorBatch(3, np.array([9, 99, 199, 299])))
    restored = faiss.deserialize_index(faiss.serialize_index(index))
    faiss.write_index(index, str(tmp_path / "file"))
    for same in (index, faiss.clone_index(index), restored, faiss.read_index(tmp_path / "file")):
        for found, want in zip(same.search(x[:5], 9), ours.search(x[:5], 9), strict=True):
            np.testing.assert_array_equal(found, want)
        assert set(same.search(x[:5], 3, params=params)[1].ravel()) == {9, 99, 199}
    with pytest.raises(RuntimeError, match="id is 5000; the index has no vector with it"):
        index.reconstruct(5000)
    with pytest.raises(AttributeError, match="no attribute nprobe"):
        index.nprobe = 3
    with pytest.raises(AttributeError, match=r"no counterpart of faiss\.IndexHNSWFlat"):
        faiss.IndexHNSWFlat(16, 4)
    with pytest.raises(RuntimeError, match="the factory text is 'PCA8,Flat'"):
        faiss.index_factory(16, "PCA8,Flat")
