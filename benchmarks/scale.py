"""Cells against the exhaustive scan and FAISS's inverted lists, at a million codes and more.

    python -m benchmarks.scale --work DIR --rows 10000000

What do cells gain, and what do they cost? An index of ``--rows`` codes of 8 bytes is built in
``DIR``, in batches, and gets its cells. The command measures the rates of both, bytes on disk,
opening, and queries a second against recall@10 of the exhaustive answer, for several ``nprobe``;
then the same of ``faiss.IndexIVFPQ`` and ``IndexIVFPQFastScan`` with as many lists and as many
bytes, against their own exhaustive answers. Vectors are drawn around centres, one for each hundred,
with 64 dimensions and falling variances, and codes are plain codebooks, those that FAISS has. With
``--like INDEX`` they are the kept features of an index with noise of ``--noise`` of their
deviation, codes are those of its codec, and FAISS gets the learned vectors. Times are the best of
``--turns`` turns. Records are appended to ``DIR/scale.jsonl``, and a table is printed at the end.

What was built stays in ``DIR`` for the next run, which then measures searches alone; ``--only``
names the methods of a run. With ``--out`` the records of ``DIR`` are added to those that are
published, and the page is written from these; ``--only`` without names measures nothing more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.options import count
from benchmarks.pages import markdown_table
from benchmarks.process import peak_memory, resident_memory
from benchmarks.provenance import current_commit
from benchmarks.runlog import RunLog
from benchmarks.scale_page import OURS, PUBLISHED, TARGET, Key, write_scale_page
from hyperpq import HiHPQIndex
from hyperpq.index.cells import as_nlist

Floats = NDArray[np.float32]
WIDTH, BYTES, K = 64, 8, 10
BATCH, TRAINED = 1 << 18, 40_000
FAISS = {"IVFPQ": f"PQ{BYTES}", "IVFPQFastScan": f"PQ{2 * BYTES}x4fs"}
METHODS = (OURS, *FAISS)
PROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Clustered:
    """Vectors around many centres."""

    rows: int

    def batch(self, number: int, n: int) -> Floats:
        """The vectors of a batch, the same for each number."""
        scale = (1 / np.sqrt(1 + np.arange(WIDTH) / 8)).astype(np.float32)
        centres = np.random.default_rng(0).standard_normal(
            (max(self.rows // 100, 100), WIDTH), np.float32
        )
        rng = np.random.default_rng((1, number))
        near = centres[rng.integers(len(centres), size=n)]
        return (near + np.float32(0.5) * rng.standard_normal((n, WIDTH), np.float32)) * scale

    def new_index(self) -> HiHPQIndex:
        """A trained index without rows."""
        index = HiHPQIndex(WIDTH, BYTES, metric="l2", device="cpu")
        index.train(self.batch(10**6, TRAINED))
        return index

    def for_faiss(self, x: Floats) -> Floats:
        """What FAISS gets of vectors."""
        return x


@dataclass(frozen=True)
class Like:
    """Features of an index, again and again, with noise."""

    index: HiHPQIndex
    features: Floats
    noise: float

    def batch(self, number: int, n: int) -> Floats:
        """The features of a batch, the same for each number."""
        rng = np.random.default_rng((1, number))
        near = self.features[rng.integers(len(self.features), size=n)]
        deviation = np.float32(self.noise) * self.features.std(0)
        return near + deviation * rng.standard_normal(near.shape, np.float32)

    def new_index(self) -> HiHPQIndex:
        """An index without rows, with the codec."""
        codec = self.index.codec
        assert codec is not None
        return HiHPQIndex.from_codec(codec, device="cpu")

    def for_faiss(self, x: Floats) -> Floats:
        """The learned vectors."""
        return self.index.embed(x)


def batches(data: Clustered | Like, rows: int) -> Iterator[Floats]:
    """All vectors, in batches."""
    step = BATCH if isinstance(data, Clustered) else BATCH // 16
    for number, start in enumerate(range(0, rows, step)):
        yield data.batch(number, min(step, rows - start))


@dataclass
class Log:
    """Records in a file, each printed."""

    records: RunLog
    common: dict[str, Any]

    def add(self, **record: Any) -> None:
        """Append one, which is of a search by hyperpq unless it says something else."""
        print(json.dumps(record), flush=True)
        self.records.append(self.common | {"method": OURS, "nprobe": 0, "step": "search"} | record)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what the work returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def recall_of(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact results that were found."""
    return float((exact[:, :, None] == found[:, None]).any(2).mean())


def build(data: Clustered | Like, rows: int, nlist: int, path: Path, log: Log) -> None:
    """An index on disk with cells, and what it took."""
    index = data.new_index()
    index.save(path, overwrite=True)
    seconds = 0.0
    for x in batches(data, rows):
        taken, _ = timed(partial(index.add, x))
        seconds += taken
    log.add(step="add", seconds=seconds, rate=rows / seconds)
    seconds, _ = timed(lambda: index.make_cells(nlist))
    log.add(step="make_cells", seconds=seconds, rate=rows / seconds)
    index.compact()
    log.add(step="build memory", peak=peak_memory())


def opened(data: Clustered | Like, rows: int, nlist: int, path: Path, log: Log) -> HiHPQIndex:
    """The index of a folder, which is built where it is not there; its size and opening time."""
    index = HiHPQIndex.load(path, device="cpu") if path.exists() else None
    if index is None or (index.ntotal, index.nlist) != (rows, nlist):
        build(data, rows, nlist, path, log)
    seconds = min(timed(lambda: HiHPQIndex.load(path, device="cpu"))[0] for _ in range(5))
    index = HiHPQIndex.load(path, device="cpu")
    stats = index.stats()
    on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    log.add(
        step="bytes",
        on_disk=on_disk / rows,
        codes=stats.code_bytes / rows,
        ids=stats.id_bytes / rows,
        segments=stats.segments,
    )
    log.add(step="open", seconds=seconds)
    return index


Search = Callable[[Floats, int | None], NDArray[np.int64]]


def faiss_search(
    name: str, data: Clustered | Like, rows: int, nlist: int, args: argparse.Namespace, log: Log
) -> Search:
    """The search of an index of FAISS with the same vectors, which is built if it is not there."""
    import faiss

    faiss.omp_set_num_threads(args.threads)
    path = args.work / f"{name}-{rows}-{nlist}.faiss"
    index: Any
    if path.exists():
        index = faiss.read_index(str(path))
    else:
        sample = data.for_faiss(data.batch(10**6 + 1, min(rows, max(50 * nlist, TRAINED))))
        index = faiss.index_factory(sample.shape[1], f"IVF{nlist},{FAISS[name]}")

        def fill() -> None:
            index.train(sample)
            for x in batches(data, rows):
                index.add(data.for_faiss(x))

        seconds, _ = timed(fill)
        log.add(step="build", method=name, seconds=seconds, rate=rows / seconds)
        faiss.write_index(index, str(path))

    def search(x: Floats, nprobe: int | None) -> NDArray[np.int64]:
        index.nprobe = nlist if nprobe is None else nprobe
        found: NDArray[np.int64] = index.search(x, K)[1]
        return found

    return search


def measure(
    name: str, search: Search, queries: Floats, nlist: int, turns: int, log: Log
) -> dict[str, Any]:
    """Queries a second against recall, all at once and one by one; the first record with .95."""
    some = queries[: max(len(queries) // 4, 1)]
    exact = search(queries, None)
    whole = min(timed(lambda: search(some, None))[0] for _ in range(turns)) / len(some)
    log.add(method=name, nprobe=nlist, recall=1.0, rate=1 / whole)
    best: dict[str, Any] = {"method": name, "exhaustive": 1 / whole}
    for nprobe in PROBES:
        if nprobe >= nlist:
            break
        recall = recall_of(search(queries, nprobe), exact)
        taken = min(timed(partial(search, queries, nprobe))[0] for _ in range(turns))
        each = [timed(partial(search, q[None], nprobe))[0] for q in some]
        record = {
            "nprobe": nprobe,
            "recall": recall,
            "rate": len(queries) / taken,
            "one_ms": 1e3 * float(np.median(each)),
        }
        log.add(method=name, **record)
        if recall >= TARGET and "nprobe" not in best:
            best |= record
        if recall > 0.995:
            break
    return best


def table(found: list[dict[str, Any]]) -> str:
    """What the run says at the target."""
    rows = []
    for best in found:
        if "nprobe" not in best:
            rows.append([best["method"], "not reached", "", "", "", ""])
            continue
        rows.append(
            [
                best["method"],
                str(best["nprobe"]),
                f"{best['recall']:.3f}",
                f"{best['rate']:,.0f}",
                f"{best['rate'] / best['exhaustive']:.1f}",
                f"{best['one_ms']:.2f}",
            ]
        )
    titles = [
        "method",
        "nprobe",
        "recall",
        "queries/s",
        "over its exhaustive scan",
        "one query, ms",
    ]
    return markdown_table([titles, *rows])


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="folder for the index and records")
    parser.add_argument("--rows", type=count, default=1_000_000, help="codes (default 1,000,000)")
    parser.add_argument("--nlist", type=count, help="cells (default: as make_cells('auto'))")
    parser.add_argument("--like", type=Path, metavar="INDEX", help="an index that keeps features")
    parser.add_argument("--noise", type=float, default=0.3, help="with --like (default 0.3)")
    parser.add_argument("--queries", type=count, default=512, help="number of queries")
    parser.add_argument("--threads", type=count, default=1, help="threads of a search")
    parser.add_argument("--turns", type=count, default=3, help="turns of each measurement")
    parser.add_argument("--only", nargs="*", choices=METHODS, help="methods (default: all)")
    parser.add_argument("--out", type=Path, help="folder of the page, such as docs/results")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    data: Clustered | Like = Clustered(args.rows)
    if args.like is not None:
        source = HiHPQIndex.load(args.like, device="cpu")
        data = Like(source, source.features_of(source.ids), args.noise)
    nlist = args.nlist or as_nlist("auto", args.rows)
    common = {
        "rows": args.rows,
        "data": "clustered" if args.like is None else args.like.name,
        "nlist": nlist,
        "threads": args.threads,
        "machine": describe_machine(),
        "commit": current_commit(),
    }
    log = Log(RunLog(args.work / "scale.jsonl", Key._fields), common)
    queries = data.batch(10**6 + 2, args.queries)
    found = []
    for name in METHODS if args.only is None else args.only:
        if name in FAISS:
            search = faiss_search(name, data, args.rows, nlist, args, log)
            view = data.for_faiss(queries)
        else:
            index = opened(data, args.rows, nlist, args.work / f"index-{args.rows}", log)
            search, view = partial(search_of, index, args.threads), queries
        found.append(measure(name, search, view, nlist, args.turns, log))
        log.add(step="memory", method=name, resident=resident_memory(), peak=peak_memory())
    if found:
        print(table(found))
    if args.out is not None:
        RunLog(args.out / PUBLISHED, Key._fields).update(log.records.runs.values())
        print(write_scale_page(args.out))


def search_of(index: HiHPQIndex, threads: int, x: Floats, nprobe: int | None) -> NDArray[np.int64]:
    """The ids that a search of cells finds."""
    return index.search(x, K, nprobe=nprobe, threads=threads)[1]


if __name__ == "__main__":
    main()
