"""Builds and searches on many machines, by Ray.

`RayWorkers` decode and encode the images of a build, and a `RayScanner` searches the codes of an
index. They need the extra ``ray``.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
