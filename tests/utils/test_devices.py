"""Devices, cores and threads."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from hyperpq.errors import InvalidInputError
from hyperpq.utils import devices
from hyperpq.utils.devices import resolve_device, single_thread, usable_cores


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


def test_cores_are_those_of_the_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
