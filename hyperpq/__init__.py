"""Image retrieval in compact learned codes (HiHPQ, AAAI 2024) as a FAISS-style index.

The public names are those of ``__init__.pyi``. Each is imported when it is first used, so that
``import hyperpq`` loads neither NumPy nor PyTorch.
"""

from __future__ import annotations

from hyperpq._version import __version__ as __version__
from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
