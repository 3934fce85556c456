"""What all tests share: few threads, a hypothesis profile, drawn pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: the machine may be busy. In CI the examples are the same in every run.
settings.register_profile(
    "hyperpq",
    deadline=None,
    max_examples=40,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("hyperpq")


@pytest.fixture(autouse=True, scope="session")
def few_threads() -> None:
    """Two threads for torch, where a test has imported it: tests are small and cores are few."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(2)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Folder with 72 drawn pictures of 48 pixels, two of each species; not to be changed."""
    from hyperpq.datasets.drawn import draw_dataset

    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, 72, size=48)
    return folder
