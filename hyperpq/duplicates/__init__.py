"""Near-duplicates in an index of images: the same image in two files, and shots of one burst.

`find` returns groups of images and the `Calibration` of its thresholds, `link` and `move` act on
what it found, and `undo` takes that back.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
