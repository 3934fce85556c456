"""hyperpq: image retrieval in compact learned codes (HiHPQ, AAAI 2024) as a FAISS-style index.

Names are loaded when they are first used, so that ``import hyperpq`` doesn't load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hyperpq._version import __version__
from hyperpq.errors import HyperPQError

if TYPE_CHECKING:
    from hyperpq.codec.hihpq import HiHPQCodec
    from hyperpq.codec.pq import PQCodec
    from hyperpq.filters.selectors import SearchParameters
    from hyperpq.filters.where import Where
    from hyperpq.images.image_index import ImageIndex
    from hyperpq.index.factory import index_factory, read_index, write_index
    from hyperpq.index.hihpq_index import HiHPQIndex
    from hyperpq.quantizers.product import LorentzProductQuantizer

_LAZY = {
    "HiHPQCodec": "hyperpq.codec.hihpq",
    "HiHPQIndex": "hyperpq.index.hihpq_index",
    "ImageIndex": "hyperpq.images.image_index",
    "LorentzProductQuantizer": "hyperpq.quantizers.product",
    "PQCodec": "hyperpq.codec.pq",
    "SearchParameters": "hyperpq.filters.selectors",
    "Where": "hyperpq.filters.where",
    "index_factory": "hyperpq.index.factory",
    "read_index": "hyperpq.index.factory",
    "write_index": "hyperpq.index.factory",
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
