"""Rows of codes with ids, attributes and paths, in memory or in an index directory of HDF5 files.

`Store` is what `MemoryStore` and `IndexStore` offer: segments of rows, changed by commits that are
whole or not at all. `Segment` is what `Rows` in memory and a `Shard` on disk offer. Columns are
NumPy arrays, `Categories` or `Strings`; `live_batches` reads rows batch by batch.
`find_place`, `replace_directory`, `recover_directory` and `verify_directory` work on whole index
directories, whose files `docs/reference/format.md` describes.
"""

from __future__ import annotations

from hyperpq.store.base import Deletions, Segment, Store
from hyperpq.store.columns import Categories, Column
from hyperpq.store.index_store import Durability, IndexStore
from hyperpq.store.memory import MemoryStore
from hyperpq.store.place import Place, find_place
from hyperpq.store.rows import Rows
from hyperpq.store.segments import live_batches
from hyperpq.store.shard import Shard
from hyperpq.store.strings import Strings
from hyperpq.store.swap import check_replaceable, recover_directory, replace_directory
from hyperpq.store.verify import Problem, verify_directory

__all__ = [
    "Categories",
    "Column",
    "Deletions",
    "Durability",
    "IndexStore",
    "MemoryStore",
    "Place",
    "Problem",
    "Rows",
    "Segment",
    "Shard",
    "Store",
    "Strings",
    "check_replaceable",
    "find_place",
    "live_batches",
    "recover_directory",
    "replace_directory",
    "verify_directory",
]
