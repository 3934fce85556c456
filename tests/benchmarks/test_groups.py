"""Agreement of groups with classes, on groups whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.groups import agreement

CLASSES = np.repeat(np.arange(4), 25)


@pytest.mark.parametrize(
    ("groups", "want"),
    [
        (CLASSES, (1, 1, 1)),
        ((CLASSES + 1) % 4, (1, 1, 1)),
        (np.zeros(100, np.int64), (0.25, 0, 0)),
        # Two classes in each group: half of the pairs, and one of two bits.
        (CLASSES // 2, (0.5, 0.4924, 2 / 3)),
    ],
)
def test_agreement(groups, want):
    assert agreement(groups, CLASSES) == pytest.approx(want, abs=0.005)
