"""Devices, cores and threads."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch

from hyperpq.errors import InvalidInputError, MissingDependencyError
from hyperpq.utils import devices
from hyperpq.utils.devices import (
    default_threads,
    limit_torch_threads,
    resolve_device,
    single_thread,
    usable_cores,
)
from hyperpq.utils.imports import import_onnxruntime


def test_devices_are_those_that_are_there(monkeypatch):
    assert resolve_device("cpu") == "cpu"
    for bad in ("gpu", "cuda:", "cuda:-1", "CPU", "cpu:0", None):
        with pytest.raises(InvalidInputError, match=f"device is {bad!r}; expected 'auto', 'cpu'"):
            resolve_device(bad)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(d) for d in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    few = r"there are only 2 GPU\(s\); expected 'cuda:0' to 'cuda:1' or 'cpu'\.$"
    with pytest.raises(InvalidInputError, match=few):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InvalidInputError, match="give 'cpu', or install a CUDA build"):
        resolve_device("cuda:0")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(devices.importlib.metadata, "version", lambda name: "2.9.0+cpu")
    assert resolve_device("auto") == "cpu"
    assert "torch" not in sys.modules


def test_one_thread_within_a_block():
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), single_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == threads


@pytest.fixture
def cores(monkeypatch):
    """Sets what the system says: cores of the process, quota of its groups, OMP_NUM_THREADS."""

    def say(scheduled=None, quota=None, omp=None):
        monkeypatch.delattr(os, "process_cpu_count", raising=False)
        if scheduled is not None:
            allowed = set(range(0, 2 * scheduled, 2))
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
        monkeypatch.setattr(devices, "_cpu_quota", lambda: quota)
        if omp is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", omp)

    return say


def test_cores_are_those_of_the_process(cores, monkeypatch):
    cores(3)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
    # Python 3.13 and newer: with the affinity, and what the user says instead of it.
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)
    assert usable_cores() == 5
    monkeypatch.setattr(os, "process_cpu_count", lambda: None)
    assert usable_cores() == 1


def test_cores_are_no_more_than_the_quota_of_a_container(cores):
    for scheduled, quota, want in ((64, 1, 1), (64, 4, 4), (2, 8, 2), (3, None, 3)):
        cores(scheduled, quota)
        assert usable_cores() == default_threads() == want


@pytest.mark.parametrize(
    ("value", "threads"),
    [("3", 3), (" 2 , 4", 2), ("007", 7), ("16", 8), ("99999999999999999999", 8)]
    + [(nonsense, 8) for nonsense in ("", "0", "-1", "two", "2.5", ",3", "\N{SUPERSCRIPT TWO}")],
)
def test_omp_num_threads_is_an_upper_bound(cores, value, threads):
    cores(8, None, value)
    assert default_threads() == threads
    assert usable_cores() == 8


def test_searches_follow_omp_num_threads(cores, monkeypatch):
    from hyperpq import scan

    asked = []
    monkeypatch.setattr(
        scan.reference, "search_segments", lambda *args, threads: asked.append(threads)
    )
    monkeypatch.setenv(scan.LEVEL_VARIABLE, "numpy")
    tables, codes = np.zeros((1, 1, 256), np.float32), np.zeros((2, 1), np.uint8)
    for omp, threads in ((None, 6), ("4", 4), ("99", 6)):
        cores(12, 6, omp)
        scan.search(tables, codes, 1)
        assert asked.pop() == threads
    scan.search(tables, codes, 1, threads=20)
    assert asked.pop() == 20


def test_numeric_libraries_have_no_more_threads_than_the_quota(cores):
    faiss = pytest.importorskip("faiss")
    from hyperpq.quantizers.kmeans import import_faiss

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        for quota, left in ((2, 2), (3, 3), (9, 4)):
            torch.set_num_threads(4)
            faiss.omp_set_num_threads(4)
            cores(16, quota)
            limit_torch_threads()
            assert torch.get_num_threads() == left
            assert import_faiss().omp_get_max_threads() == left
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def test_decoding_and_onnx_runtime_follow_the_quota(cores, monkeypatch, tmp_path):
    """Decoding had a thread for each core of the machine where a container allows one."""
    from hyperpq.backbones import Backbone, load_backbone
    from hyperpq.datasets.preprocessing import Preprocessing
    from hyperpq.images import decoders, extract

    cores(64, 3)
    pools = []

    class Means(Backbone):
        def _features(self, pixels):
            return pixels.mean((1, 2)).astype(np.float32)

    class Pool(decoders.ThreadPoolExecutor):
        def __init__(self, workers, **options):
            pools.append(workers)
            super().__init__(workers, **options)

    monkeypatch.setattr(decoders, "ThreadPoolExecutor", Pool)
    network = Means("means", 3, Preprocessing(8), "0" * 32, "cpu", mean=None, std=None)
    for workers, started in ((0, 3), (7, 7)):
        options = extract.ReadOptions(workers)
        list(extract.stream_features([os.fsencode(tmp_path / "none.jpg")], network, options))
        assert pools.pop() == started
    ort = import_onnxruntime()
    sessions = []
    session = ort.InferenceSession

    def watched(model, options, **rest):
        sessions.append(options.intra_op_num_threads)
        return session(model, options, **rest)

    monkeypatch.setattr(ort, "InferenceSession", watched)
    load_backbone("lite0", device="cpu")
    assert sessions == [3]


def test_without_pytorch_there_is_the_cpu(monkeypatch):
    def version(name):
        raise devices.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(devices.importlib.metadata, "version", version)
    assert resolve_device("auto") == "cpu"
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"computations on a GPU need torch .*\[gpu\]"):
        resolve_device("cuda")
