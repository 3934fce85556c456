"""Optional packages."""

from __future__ import annotations

import importlib.util
import math

import pytest

from hyperpq.errors import MissingDependencyError
from hyperpq.utils.imports import need, need_torch


def test_a_package_that_is_there():
    assert need("math", "none", "Tests") is math


def test_a_package_that_is_missing_names_its_extra():
    message = r"^Files need hyperpq_none \(.*\); install it with `pip install 'hyperpq\[some\]'`\.$"
    with pytest.raises(ImportError, match=message) as caught:
        need("hyperpq_none.module", "some", "Files")
    assert isinstance(caught.value, MissingDependencyError)


def test_pytorch_is_looked_for_and_not_imported(monkeypatch):
    need_torch("Tests")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = (
        r"^Tests need PyTorch, which is not installed; install it with "
        r"`pip install 'hyperpq\[train\]'`\.$"
    )
    with pytest.raises(MissingDependencyError, match=message):
        need_torch("Tests")
