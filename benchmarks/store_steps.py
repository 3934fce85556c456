"""The steps of `benchmarks.store`: each one prepares, and then yields the calls that are timed.

    python -m benchmarks.store_steps STEP INDEX ROWS

runs a step on an index in this process. It prints a line of JSON when its preparations are done
(``own``: `own_memory` then), and one with what `run_step` measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.process import (
    bytes_written,
    own_memory,
    peak_memory,
    reset_peak_memory,
    resident_memory,
)
from hyperpq.codec.pq import PQCodec
from hyperpq.codec.serialization import from_files
from hyperpq.filters.selectors import IDSelectorBatch, IDSelectorRange, SearchParameters
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.store import IndexStore, Rows

ROOT = Path(__file__).parents[1]
M, D = 8, 8
# Rows that are appended at a time when a store is filled.
APPENDED_ROWS = 1 << 20
# Ids are 7 i + 3, so that those between are free.
ID_STEP, FIRST_ID = 7, 3
MAX_NUMBER = 1_000_000
LABELS = [f"label-{i:04d}" for i in range(1000)]
NANOSECONDS = 10**9

# What is timed. A text that it returns is a remark on the page.
Call: TypeAlias = Callable[[], Any]
Step: TypeAlias = Callable[[Path, int], Iterator[Call]]


def columns(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Attributes of n rows: uniform numbers, times in ten years, labels."""
    seconds = rng.integers(0, 10 * 365 * 86400, n) + 1_400_000_000
    return {
        "number": rng.integers(0, MAX_NUMBER, n, np.int32),
        "share": rng.random(n, np.float32),
        "taken": (seconds * NANOSECONDS).view("datetime64[ns]"),
        "folder": [LABELS[i] for i in rng.integers(0, len(LABELS), n).tolist()],
    }


def load(path: Path, **options: Any) -> HiHPQIndex:
    """Load the index on the CPU."""
    return HiHPQIndex.load(path, device="cpu", **options)


def vectors(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Random vectors (n, d)."""
    return np.random.default_rng(seed).normal(size=(n, M * D)).astype(np.float32)


def used_ids(n: int, rows: int, seed: int = 0) -> NDArray[np.int64]:
    """Ids (n,) that a store was filled with, each once."""
    numbers = np.random.default_rng(seed).choice(rows, n, replace=False, shuffle=True)
    return numbers * ID_STEP + FIRST_ID


def unused_ids(path: Path, n: int, rows: int) -> NDArray[np.int64]:
    """Ids (n,) that the store does not have, between those that it has."""
    store = IndexStore.open(path)
    rng = np.random.default_rng(store.snapshot_number)
    ids = np.unique(ID_STEP * rng.integers(0, rows, 2 * n + 50) + rng.integers(4, 7, 2 * n + 50))
    free = np.ones(len(ids), bool)
    for _, found, _ in store.find(ids):
        free &= found < 0
    return rng.permutation(ids[free])[:n]


def append_last(store: IndexStore, batches: list[Rows]) -> None:
    """Append the last of the batches to the store; its memory is free afterwards."""
    store.append(batches.pop())


def fill(path: Path, rows: int, paths: bool = False) -> Iterator[Call]:
    """Fill a store with random codes whose ids are in random order."""
    rng = np.random.default_rng(1)
    codec = PQCodec.from_codebooks(rng.normal(size=(M, 256, D)))
    HiHPQIndex.from_codec(codec, device="cpu").save(path)
    store = IndexStore.open(path)
    order = rng.permutation(rows) * ID_STEP + FIRST_ID
    for start in range(0, rows, APPENDED_ROWS):
        ids = order[start : start + APPENDED_ROWS]
        codes = rng.integers(0, 256, (len(ids), M), np.uint8)
        names = None
        if paths:
            names = [b"/images/%03d/image-%09d.jpg" % (i % 1000, i) for i in ids.tolist()]
        batch = [Rows(codes, ids, columns(len(ids), rng), names)]
        yield partial(append_last, store, batch)


def open_store(path: Path, rows: int) -> Iterator[Call]:
    """Open the store."""
    for _ in range(20):
        yield partial(IndexStore.open, path)


def read_codec(path: Path, rows: int) -> Iterator[Call]:
    """Read the codec of an open store."""
    store = IndexStore.open(path)

    def read() -> None:
        from_files({name: store.read_file(name) for name in store.file_names})

    for _ in range(20):
        yield read


def load_index(path: Path, rows: int) -> Iterator[Call]:
    """Open the store and read the codec."""
    for _ in range(20):
        yield partial(load, path)


def search(
    path: Path,
    rows: int,
    where: str | None = None,
    turns: int = 9,
    params: SearchParameters | None = None,
) -> Iterator[Call]:
    """Search an index that was searched before."""
    index, x = load(path), vectors(1)
    index.search(x, 10, where=where, params=params, threads=1)
    for _ in range(turns):
        yield partial(index.search, x, 10, where=where, params=params, threads=1)


def first_query(path: Path, rows: int, where: str | None = None) -> Iterator[Call]:
    """Search an index for the first time."""
    x = vectors(1)
    for _ in range(5):
        index = load(path)
        index.codec.tables(x)  # type: ignore[union-attr]
        yield partial(index.search, x, 10, where=where, threads=1)


def first_query_from_disk(path: Path, rows: int) -> Iterator[Call]:
    """Search an index for the first time, its shards not in the page cache."""
    for file in path.glob("shards/*.h5"):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    index, x = load(path), vectors(1)
    index.codec.tables(x)  # type: ignore[union-attr]
    yield partial(index.search, x, 10, threads=1)


def select_range(path: Path, rows: int) -> Iterator[Call]:
    """Search a hundredth of the ids, given as a range."""
    middle = ID_STEP * rows // 2
    chosen = IDSelectorRange(middle, middle + ID_STEP * rows // 100)
    return search(path, rows, params=SearchParameters(sel=chosen))


def select_batch(path: Path, rows: int) -> Iterator[Call]:
    """Search a hundredth of the ids, given one by one."""
    chosen = IDSelectorBatch(used_ids(rows // 100, rows))
    return search(path, rows, params=SearchParameters(sel=chosen))


def reconstruct(path: Path, rows: int, n: int = 1) -> Iterator[Call]:
    """Reconstruct n vectors."""
    index = load(path)
    for ids in used_ids(100 * n, rows).reshape(100, n):
        yield partial(index.reconstruct_batch, ids)


def attributes_of(path: Path, rows: int, n: int = 1) -> Iterator[Call]:
    """Look up the attributes of n ids."""
    index = load(path)
    for ids in used_ids(30 * n, rows).reshape(30, n):
        yield partial(index.attributes_of, ids)


def add(path: Path, rows: int, n: int = 1, turns: int = 40) -> Iterator[Call]:
    """Add n vectors."""
    index, x = load(path), vectors(n)
    given = columns(n, np.random.default_rng(2))
    for ids in unused_ids(path, n * turns, rows).reshape(turns, n):
        yield partial(index.add, x, ids, attributes=given)


def add_many(path: Path, rows: int) -> Iterator[Call]:
    """Add a hundredth of the rows."""
    return add(path, rows, rows // 100, 3)


def encode_many(path: Path, rows: int) -> Iterator[Call]:
    """Encode a hundredth of the rows."""
    index, x = load(path), vectors(rows // 100)
    for _ in range(3):
        yield partial(index.encode, x)


def add_in_a_row(path: Path, rows: int, durability: Any = "full") -> Iterator[Call]:
    """Add up to 1,000 vectors, each by a call of its own."""
    index, n = load(path, durability=durability), min(1000, rows // 10)
    x, given, ids = vectors(n), columns(n, np.random.default_rng(3)), unused_ids(path, n, rows)

    def run() -> str:
        before = index.collection.n_segments
        for i in range(n):
            own = {name: values[i : i + 1] for name, values in given.items()}
            index.add(x[i : i + 1], ids[i : i + 1], attributes=own)
        return f"{n:,} calls; {before} shards before, {index.collection.n_segments} after"

    yield run


def remove(path: Path, rows: int, share: int | None = None) -> Iterator[Call]:
    """Remove one id, or one of every ``share`` rows."""
    index = load(path)
    turns, n = (30, 1) if share is None else (3, rows // share)
    for ids in used_ids(turns * n, rows, seed=4 + n).reshape(turns, n):
        yield partial(index.remove_ids, ids)


def remove_where(path: Path, rows: int) -> Iterator[Call]:
    """Remove the hundredth of the rows that a filter matches."""
    index, width = load(path), MAX_NUMBER // 100

    def remove(where: str) -> str:
        return f"{index.remove_ids(where=where):,} rows in the last call"

    for turn in range(3):
        where = f"{turn * width} <= number < {(turn + 1) * width}"
        yield partial(remove, where)


def refresh(path: Path, rows: int) -> Iterator[Call]:
    """Refresh an index after another process has added to it."""
    indexes = [load(path) for _ in range(9)]
    command = [sys.executable, "-m", "benchmarks.store_steps", "add", str(path.resolve())]
    command.append(str(rows))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)

    def run(index: HiHPQIndex) -> None:
        assert index.refresh()

    for index in indexes:
        yield partial(run, index)


def verify(path: Path, rows: int) -> Iterator[Call]:
    """Verify the store."""

    def run() -> None:
        assert store.verify() == []

    store = IndexStore.open(path)
    yield run


def compact(path: Path, rows: int) -> Iterator[Call]:
    """Compact the index."""
    index = load(path)

    def run() -> str:
        before = index.collection.n_segments
        assert index.compact()
        return f"{index.ntotal:,} rows; {before} shards before, {index.collection.n_segments} after"

    yield run


STEPS: dict[str, Step] = {
    "fill": fill,
    "fill with paths": lambda path, rows: fill(path, rows, paths=True),
    "open": open_store,
    "codec": read_codec,
    "load": load_index,
    "first query": first_query,
    "first query from disk": first_query_from_disk,
    "first query where": lambda path, rows: first_query(path, rows, "number < 10_000"),
    "search": search,
    "where all": lambda path, rows: search(path, rows, "number >= 0"),
    "where half": lambda path, rows: search(path, rows, "number < 500_000"),
    "where hundredth": lambda path, rows: search(path, rows, "number < 10_000"),
    "where millionth": lambda path, rows: search(path, rows, "number == 7"),
    "where float": lambda path, rows: search(path, rows, "share < 0.01"),
    "where time": lambda path, rows: search(path, rows, "taken >= '2024-04-01'"),
    "where label": lambda path, rows: search(path, rows, "folder == 'label-0007'"),
    "where path": lambda path, rows: search(path, rows, "startswith(path, '/images/007/')"),
    "range": select_range,
    "batch": select_batch,
    "reconstruct": reconstruct,
    "reconstruct 1000": lambda path, rows: reconstruct(path, rows, min(1000, rows // 100)),
    "attributes": attributes_of,
    "attributes 1000": lambda path, rows: attributes_of(path, rows, min(1000, rows // 100)),
    "add": add,
    "encode many": encode_many,
    "add many": add_many,
    "add in a row": add_in_a_row,
    "add in a row fast": lambda path, rows: add_in_a_row(path, rows, "fast"),
    "remove": remove,
    "remove many": lambda path, rows: remove(path, rows, 100),
    "remove where": remove_where,
    "refresh": refresh,
    "verify": verify,
    "compact": compact,
}


def run_step(name: str, path: Path, rows: int, ready: Callable[[int], None]) -> dict[str, Any]:
    """Run a step in this process.

    Parameters
    ----------
    name : str
        Key of `STEPS`.
    path, rows
        The index, and the number of rows that it was filled with.
    ready : callable
        Called with `own_memory` before the first call is timed.

    Returns
    -------
    dict
        ``seconds`` and ``cpu``: duration and processor time of each call. ``peak``: bytes by which
        the peak of resident memory grew. ``written``: bytes passed to write calls. ``remark``: text
        that the last call returned, or None.
    """
    seconds, cpu, written, peak, remark = [], [], 0, 0, None
    for number, call in enumerate(STEPS[name](path, rows)):
        if not number:
            ready(own_memory())
        reset_peak_memory()
        resident_before, written_before = resident_memory(), bytes_written()
        start, cpu_start = time.perf_counter(), time.process_time()
        out = call()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
        written += bytes_written() - written_before
        peak = max(peak, peak_memory() - resident_before)
        remark = out if isinstance(out, str) else None
        del out
    each = written // len(seconds)
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "written": each, "remark": remark}


def main(argv: Sequence[str]) -> None:
    """Run a step and print what was measured."""
    name, path, rows = argv

    def say(**line: Any) -> None:
        print(json.dumps(line), flush=True)

    result = run_step(name, Path(path), int(rows), lambda own: say(own=own))
    say(**result)


if __name__ == "__main__":
    main(sys.argv[1:])
