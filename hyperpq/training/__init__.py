"""Learning a codec without labels.

`train_codec` learns a `HiHPQCodec` from features: it splits them, starts from PCA, learns from a
neighbour graph of them (or as published), fits the codebooks, and keeps the result only if it helps
held-out images. A `Recipe` has all settings, each documented in `hyperpq.training.recipe`;
`get_recipe` gives the presets ``default`` and ``paper``.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
