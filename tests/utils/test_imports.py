"""Optional packages."""

from __future__ import annotations

import math

import pytest

from hyperpq.errors import MissingDependencyError
from hyperpq.utils.imports import need


def test_a_package_that_is_there():
    assert need("math", "none", "Tests") is math


def test_a_package_that_is_missing_names_its_extra():
    message = r"^Files need hyperpq_none \(.*\); install it with `pip install 'hyperpq\[some\]'`\.$"
    with pytest.raises(ImportError, match=message) as caught:
        need("hyperpq_none.module", "some", "Files")
    assert isinstance(caught.value, MissingDependencyError)
