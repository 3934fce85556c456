"""The metrics of codes in flat space. Does not import torch."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

FlatMetric: TypeAlias = Literal["l2", "ip"]
"""Metrics of plain codebooks."""
FLAT_METRICS: tuple[FlatMetric, ...] = get_args(FlatMetric)
FidelityMetric: TypeAlias = Literal["cosine", "l2", "ip"]
"""Metrics of codes that keep exact neighbours."""
FIDELITY_METRICS: tuple[FidelityMetric, ...] = get_args(FidelityMetric)
