"""Drawn images for tests of pages."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def images(drawn):
    """24 drawn images."""
    return sorted(path for path in drawn.rglob("*") if path.suffix in (".png", ".jpg"))[:24]
