"""What all tests share: one thread a library, a hypothesis profile, drawn images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests are small and cores few: on busy cores two OpenMP threads wait for each other by spinning,
# which made the same tests ten times slower. Read when torch or faiss is first imported.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"

# Lines of progress depend on how busy the machine is, and tests compare stderr.
os.environ.setdefault("HYPERPQ_PROGRESS", "none")

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


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Folder with 72 drawn images of 48 pixels, two of each species; not to be changed."""
    from hyperpq.datasets.drawn import draw_dataset

    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, 72, size=48)
    return folder
