"""The steps of `benchmarks.store`: each prepares, then names what is measured.

    python -m benchmarks.store_steps STEP INDEX ROWS

runs one in this process. It writes a line of JSON when its preparations are over and one with what
was measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.codec.pq import PQCodec
from hyperpq.codec.serialization import from_files
from hyperpq.filters.selectors import IDSelectorBatch, IDSelectorRange, SearchParameters
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.store import IndexStore, Rows

M, D = 8, 8
PIECE = 1 << 20
"""Rows that are appended at once when a store is filled."""
_STEP = 7  # ids are 7 i + 3, so that those between are free
_NUMBERS = 1_000_000
_LABELS = [f"label-{i:04d}" for i in range(1000)]
_SECONDS = 10**9

Action: TypeAlias = Callable[[], Any]
"""What is timed. A text that it returns is a remark for the page."""


def columns(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Attributes of ``n`` rows: uniform numbers, times of ten years, labels."""
    seconds = rng.integers(0, 10 * 365 * 86400, n) + 1_400_000_000
    return {
        "number": rng.integers(0, _NUMBERS, n, np.int32),
        "share": rng.random(n, np.float32),
        "taken": (seconds * _SECONDS).view("datetime64[ns]"),
        "folder": [_LABELS[i] for i in rng.integers(0, len(_LABELS), n).tolist()],
    }


def load(path: Path, **options: Any) -> HiHPQIndex:
    return HiHPQIndex.load(path, device="cpu", **options)


def vectors(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, M * D)).astype(np.float32)


def known(n: int, rows: int, seed: int = 0) -> NDArray[np.int64]:
    """Some of the ids that a store was filled with, each once."""
    numbers = np.random.default_rng(seed).choice(rows, n, replace=False, shuffle=True)
    return numbers * _STEP + 3


def fresh(index: HiHPQIndex, n: int, rows: int) -> NDArray[np.int64]:
    """Ids that it doesn't have, between those that it has."""
    rng = np.random.default_rng(index.store.generation if index.store else 0)
    ids = np.unique(_STEP * rng.integers(0, rows, 2 * n + 50) + rng.integers(4, 7, 2 * n + 50))
    free = np.ones(len(ids), bool)
    for found, _ in index.find(ids):
        free &= found < 0
    return rng.permutation(ids[free])[:n]


def fill(path: Path, rows: int, paths: bool = False) -> Iterator[Action]:
    """A store of random codes, its ids in random order."""
    rng = np.random.default_rng(1)
    index = HiHPQIndex.from_codec(
        PQCodec.from_codebooks(rng.normal(size=(M, 256, D))), device="cpu"
    )
    index.save(path)
    order = rng.permutation(rows) * _STEP + 3
    for start in range(0, rows, PIECE):
        ids = order[start : start + PIECE]
        codes = rng.integers(0, 256, (len(ids), M), np.uint8)
        names = None
        if paths:
            names = [b"/images/%03d/image-%09d.jpg" % (i % 1000, i) for i in ids.tolist()]
        block = [Rows(codes, ids, columns(len(ids), rng), names)]
        # The block is gone once it is written.
        yield lambda block=block: index.append(block.pop())


def open_store(path: Path, rows: int) -> Iterator[Action]:
    for _ in range(20):
        yield lambda: IndexStore.open(path)


def read_codec(path: Path, rows: int) -> Iterator[Action]:
    store = IndexStore.open(path)
    for _ in range(20):
        yield lambda: from_files({name: store.read_file(name) for name in store.file_names})


def load_index(path: Path, rows: int) -> Iterator[Action]:
    for _ in range(20):
        yield lambda: load(path)


def search(
    path: Path,
    rows: int,
    where: str | None = None,
    turns: int = 9,
    params: SearchParameters | None = None,
) -> Iterator[Action]:
    index, x = load(path), vectors(1)
    index.search(x, 10, where=where, params=params, threads=1)
    for _ in range(turns):
        yield lambda: index.search(x, 10, where=where, params=params, threads=1)


def first_query(path: Path, rows: int, where: str | None = None) -> Iterator[Action]:
    x = vectors(1)
    for _ in range(5):
        index = load(path)
        index.codec.tables(x)  # type: ignore[union-attr]
        yield lambda index=index: index.search(x, 10, where=where, threads=1)


def first_query_from_disk(path: Path, rows: int) -> Iterator[Action]:
    for file in path.glob("shards/*.h5"):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    index, x = load(path), vectors(1)
    index.codec.tables(x)  # type: ignore[union-attr]
    yield lambda: index.search(x, 10, threads=1)


def select_range(path: Path, rows: int) -> Iterator[Action]:
    middle = _STEP * rows // 2
    chosen = IDSelectorRange(middle, middle + _STEP * rows // 100)
    return search(path, rows, params=SearchParameters(sel=chosen))


def select_batch(path: Path, rows: int) -> Iterator[Action]:
    chosen = IDSelectorBatch(known(rows // 100, rows))
    return search(path, rows, params=SearchParameters(sel=chosen))


def reconstruct(path: Path, rows: int, n: int = 1) -> Iterator[Action]:
    index = load(path)
    for ids in known(100 * n, rows).reshape(100, n):
        yield lambda ids=ids: index.reconstruct_batch(ids)


def attributes_of(path: Path, rows: int, n: int = 1) -> Iterator[Action]:
    index = load(path)
    for ids in known(30 * n, rows).reshape(30, n):
        yield lambda ids=ids: index.attributes_of(ids)


def add(path: Path, rows: int, n: int = 1, turns: int = 40) -> Iterator[Action]:
    index, x = load(path), vectors(n)
    given = columns(n, np.random.default_rng(2))
    for ids in fresh(index, n * turns, rows).reshape(turns, n):
        yield lambda ids=ids: index.add(x, ids, attributes=given)


def add_many(path: Path, rows: int) -> Iterator[Action]:
    return add(path, rows, rows // 100, 3)


def encode_many(path: Path, rows: int) -> Iterator[Action]:
    index, x = load(path), vectors(rows // 100)
    for _ in range(3):
        yield lambda: index.encode(x)


def add_in_a_row(path: Path, rows: int, durability: Any = "full") -> Iterator[Action]:
    index, n = load(path, durability=durability), min(1000, rows // 10)
    x, given, ids = vectors(n), columns(n, np.random.default_rng(3)), fresh(index, n, rows)

    def run() -> str:
        before = len(index.parts)
        for i in range(n):
            own = {name: values[i : i + 1] for name, values in given.items()}
            index.add(x[i : i + 1], ids[i : i + 1], attributes=own)
        return f"{n:,} calls; {before} shards before, {len(index.parts)} after"

    yield run


def remove(path: Path, rows: int, share: int | None = None) -> Iterator[Action]:
    index = load(path)
    turns, n = (30, 1) if share is None else (3, rows // share)
    for ids in known(turns * n, rows, seed=4 + n).reshape(turns, n):
        yield lambda ids=ids: index.remove_ids(ids)


def remove_where(path: Path, rows: int) -> Iterator[Action]:
    index, width = load(path), _NUMBERS // 100
    for turn in range(3):
        where = f"{turn * width} <= number < {(turn + 1) * width}"
        yield lambda where=where: f"{index.remove_ids(where=where):,} rows in the last"


def refresh(path: Path, rows: int) -> Iterator[Action]:
    indexes = [load(path) for _ in range(9)]
    command = [sys.executable, "-m", "benchmarks.store_steps", "add", str(path), str(rows)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def run(index: HiHPQIndex) -> None:
        assert index.refresh()

    for index in indexes:
        yield lambda index=index: run(index)


def verify(path: Path, rows: int) -> Iterator[Action]:
    def run() -> None:
        assert store.verify() == []

    store = IndexStore.open(path)
    yield run


def compact(path: Path, rows: int) -> Iterator[Action]:
    index = load(path)

    def run() -> str:
        before = len(index.parts)
        assert index.compact()
        return f"{index.ntotal:,} rows; {before} shards before, {len(index.parts)} after"

    yield run


STEPS: dict[str, Callable[[Path, int], Iterator[Action]]] = {
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


def own_memory(pid: int | str = "self") -> int:
    """Bytes of a process that lie in memory and in no file; 0 where Linux doesn't tell."""
    return _of_status(pid, "RssAnon")


def _of_status(pid: int | str, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(field)), 0)


def _written() -> int:
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def _forget_peak() -> None:
    """Let the kernel count the peak of resident memory from now on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def run_step(name: str, path: Path, rows: int, ready: Callable[[int], None]) -> dict[str, Any]:
    """Run a step here.

    Parameters
    ----------
    name : str
        One of `STEPS`.
    path, rows
        The index, and how many rows it was filled with.
    ready : callable
        Told `own_memory` before the first action.

    Returns
    -------
    dict
        ``seconds`` of each action, ``cpu``: those that a processor worked for it, ``peak``: bytes
        by which the peak of resident memory grew, ``written``: bytes given to write calls,
        ``remark``.
    """
    seconds, cpu, written, peak, remark = [], [], 0, 0, None
    for number, action in enumerate(STEPS[name](path, rows)):
        if not number:
            ready(own_memory())
        _forget_peak()
        before, io = _of_status("self", "VmRSS"), _written()
        start, work = time.perf_counter(), time.process_time()
        out = action()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - work)
        written += _written() - io
        peak = max(peak, _of_status("self", "VmHWM") - before)
        remark = out if isinstance(out, str) else None
        del out
    each = written // len(seconds)
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "written": each, "remark": remark}


def main(argv: Sequence[str]) -> None:
    name, path, rows = argv

    def say(**line: Any) -> None:
        print(json.dumps(line), flush=True)

    result = run_step(name, Path(path), int(rows), lambda own: say(own=own))
    say(**result)


if __name__ == "__main__":
    main(sys.argv[1:])
