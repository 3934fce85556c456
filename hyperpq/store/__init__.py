"""The store: an index directory of HDF5 shards that loses nothing; see `docs/format.md`."""

from __future__ import annotations

from hyperpq.store.base import MemoryStore, Piece, RowStore, live_blocks
from hyperpq.store.columns import Categories, Column
from hyperpq.store.index_store import IndexStore
from hyperpq.store.rows import Rows
from hyperpq.store.shard import Shard
from hyperpq.store.strings import Strings
from hyperpq.store.swap import recover_directory, replace_directory
from hyperpq.store.verify import Problem, verify_directory
from hyperpq.utils.files import atomic_write

__all__ = [
    "Categories",
    "Column",
    "IndexStore",
    "MemoryStore",
    "Piece",
    "Problem",
    "RowStore",
    "Rows",
    "Shard",
    "Strings",
    "atomic_write",
    "live_blocks",
    "recover_directory",
    "replace_directory",
    "verify_directory",
]
