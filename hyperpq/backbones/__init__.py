"""Image encoders: pixels -> features."""

from hyperpq.backbones.base import BATCH, Backbone
from hyperpq.backbones.registry import available_backbones, load_backbone

__all__ = ["BATCH", "Backbone", "available_backbones", "load_backbone"]
