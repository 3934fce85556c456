"""What the tests of faults share as fixtures."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where the system has such a place: on a disk thousands of fsyncs take minutes."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def tally(request):
    """Counts of what the tests of one file did, printed after the last of them."""
    counts = Counter()
    yield counts
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{request.path.stem}: {dict(counts)}")
