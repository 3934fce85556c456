"""The metrics of plain codebooks. Does not import torch."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

FlatMetric: TypeAlias = Literal["l2", "ip"]
FLAT_METRICS: tuple[FlatMetric, ...] = get_args(FlatMetric)
