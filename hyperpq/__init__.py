"""hyperpq: image retrieval in compact learned codes (HiHPQ, AAAI 2024) as a FAISS-style index.

Names are loaded when they are first used, so that ``import hyperpq`` doesn't load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hyperpq._version import __version__
from hyperpq.errors import HyperPQError

if TYPE_CHECKING:
    from hyperpq.codec import HiHPQCodec
    from hyperpq.factory import index_factory, read_index, write_index
    from hyperpq.image_index import ImageIndex
    from hyperpq.index import HiHPQIndex
    from hyperpq.pq_codec import PQCodec
    from hyperpq.quantizer import LorentzProductQuantizer
    from hyperpq.selectors import SearchParameters
    from hyperpq.where import Where

_LAZY = {
    "HiHPQCodec": "hyperpq.codec",
    "HiHPQIndex": "hyperpq.index",
    "ImageIndex": "hyperpq.image_index",
    "LorentzProductQuantizer": "hyperpq.quantizer",
    "PQCodec": "hyperpq.pq_codec",
    "SearchParameters": "hyperpq.selectors",
    "Where": "hyperpq.where",
    "index_factory": "hyperpq.factory",
    "read_index": "hyperpq.factory",
    "write_index": "hyperpq.factory",
}

__all__ = [
    "HiHPQCodec",
    "HiHPQIndex",
    "HyperPQError",
    "ImageIndex",
    "LorentzProductQuantizer",
    "PQCodec",
    "SearchParameters",
    "Where",
    "__version__",
    "index_factory",
    "read_index",
    "write_index",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hyperpq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
