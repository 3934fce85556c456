"""Folders of images: which files they contain, their features, and the index built from them.

`build_index` builds an index of the images below folders or brings one up to date, `update_index`
only does the latter, and `ImageIndex` searches it: each query image gets an `Answer` with a list of
`Result`. The way of an image is `listing` -> `extract` (pixels to features) -> `image_index`
(features to codes); `build` does this for millions of images, in stages that survive a kill.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
