"""Indexes in object storage: published by `push`, copied to a directory by `pull`.

They need the extra ``remote``. docs/how-to/storage.md describes what lies at a URL.
"""

from __future__ import annotations

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
