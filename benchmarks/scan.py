"""Speed of the scan, beside faiss.

    python -m benchmarks.scan --features CACHE

How many vectors does a search scan in a second? Every level of the scan (instruction sets) is
measured beside faiss's `IndexPQ`, `IndexPQFastScan` and `IndexIVFPQFastScan` with the same number
of bytes for each vector, and beside a loop that only loads every byte once. The methods take turns
in one run. The page ``scan.md`` and its plot show collections of 10 thousand to 10 million vectors,
code sizes, batches, k, threads and kinds of data.

Codes are those of a product quantizer of faiss on clustered, uniform or real vectors, so that every
index answers the same question. faiss's times include its distance tables; hyperpq's tables are
made before (they take 2 to 4 microseconds a query).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import unit
from benchmarks.machine import describe_machine
from benchmarks.options import count
from benchmarks.pages import import_pyplot, markdown_table, origin
from hyperpq import scan
from hyperpq.codes import TiledCodes

# Dimensions of a subquantizer.
WIDTH = 8
# Vectors that are drawn and added to the indexes at a time.
ADDED_AT_ONCE = 200_000
# faiss's IndexPQ searches one query after another, so a few of them tell its speed.
INDEX_PQ_QUERIES = 4
INDEX_PQ, FAST_SCAN, IVF_FAST_SCAN = "IndexPQ", "IndexPQFastScan", "IndexIVFPQFastScan"
EVERY_BYTE = "every byte once"
# The section whose results are plotted.
PLOTTED = "Collections and lengths"


class Case(NamedTuple):
    """What is searched.

    Attributes
    ----------
    data : {"clustered", "uniform", "real"}
        Kind of the vectors.
    n, size : int
        Number of vectors, and bytes of each.
    batch, k, threads : int
        Number of queries in a search, of results for each, and of threads.
    """

    data: str
    n: int
    size: int
    batch: int = 1
    k: int = 10
    threads: int = 1


class Collection(NamedTuple):
    """The vectors of a case as every method holds them.

    Attributes
    ----------
    codes : TiledCodes
        Codes of hyperpq's scan.
    tables : ndarray, shape (512, M, 256), float32
        Distance tables of the queries.
    queries : ndarray, shape (512, d), float32
    pq, fastscan, ivf
        The indexes of faiss.
    """

    codes: TiledCodes
    tables: NDArray[np.float32]
    queries: NDArray[np.float32]
    pq: Any
    fastscan: Any
    ivf: Any


class Rate(NamedTuple):
    """Vectors a second: the median of the turns, and half their interquartile range over it."""

    median: float
    spread: float


Rates = dict[str, Rate]
Search = Callable[[], Any]


def draw_vectors(
    data: str, n: int, size: int, seed: int, features: Path | None
) -> NDArray[np.float32]:
    """Vectors (n, 8 size): noise around 1,000 centres, uniform, or PCA of cached features."""
    rng = np.random.default_rng(seed)
    d = WIDTH * size
    if data == "uniform":
        return rng.random((n, d), np.float32)
    if data == "clustered":
        centres = np.random.default_rng(0).normal(size=(1000, d)).astype(np.float32)
        noise = rng.normal(scale=0.5, size=(n, d)).astype(np.float32)
        return centres[rng.integers(0, 1000, n)] + noise
    if features is None:
        raise SystemExit("real codes expected --features, the cache of benchmarks.quality.")
    x = unit(np.load(next(features.glob("cifar10-ii-*/database.npy"))))
    mean = x.mean(0)
    axes = np.linalg.eigh(np.cov((x[:10_000] - mean).T))[1][:, ::-1][:, :d]
    # Consecutive axes go to different subquantizers; else the first would have all the variance.
    in_turn = np.arange(d).reshape(WIDTH, size).T.ravel()
    return np.ascontiguousarray(((x - mean) @ axes)[:, in_turn], np.float32)[:n]


def fill(case: Case, features: Path | None) -> Collection:
    """Train the quantizers and fill every index."""
    import faiss

    d, M = WIDTH * case.size, case.size
    sample = draw_vectors(case.data, 50_000, M, 1, features)
    pq = faiss.IndexPQ(d, M, 8)
    fastscan = faiss.IndexPQFastScan(d, 2 * M, 4)
    lists = max(16, min(1024, int(4 * case.n**0.5) // 16 * 16))
    ivf = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(d), d, lists, 2 * M, 4)
    for index in (pq, fastscan, ivf):
        index.train(sample)
    ivf.nprobe = max(1, lists // 32)
    for start in range(0, case.n, ADDED_AT_ONCE):
        rows = min(ADDED_AT_ONCE, case.n - start)
        x = draw_vectors(case.data, rows, M, 2 + start, features)
        for index in (pq, fastscan, ivf):
            index.add(x)
    codes = faiss.vector_to_array(pq.codes).reshape(-1, M)
    queries = np.ascontiguousarray(sample[-512:])
    words = faiss.vector_to_array(pq.pq.centroids).reshape(M, 256, WIDTH)
    gap = queries.reshape(-1, M, 1, WIDTH) - words
    tables = np.ascontiguousarray((gap**2).sum(-1), np.float32)
    return Collection(scan.prepare(codes), tables, queries, pq, fastscan, ivf)


def searches(case: Case, held: Collection, levels: Sequence[str]) -> dict[str, Search]:
    """A function for each method that searches the whole batch once."""
    import faiss

    faiss.omp_set_num_threads(case.threads)
    tables, queries = held.tables[: case.batch], held.queries[: case.batch]

    def search_at(level: str) -> Search:
        def search() -> Any:
            os.environ[scan.LEVEL_VARIABLE] = level
            return scan.search(tables, held.codes, case.k, threads=case.threads)

        return search

    out: dict[str, Search] = {level: search_at(level) for level in levels}
    out[INDEX_PQ] = lambda: held.pq.search(queries[:INDEX_PQ_QUERIES], case.k)
    out[FAST_SCAN] = lambda: held.fastscan.search(queries, case.k)
    out[IVF_FAST_SCAN] = lambda: held.ivf.search(queries, case.k)
    best = compiled_levels()[0]
    out[EVERY_BYTE] = lambda: scan._native.stream(held.codes.data, best)
    return out


def compiled_levels() -> list[str]:
    """The instruction sets that this machine can run, best first."""
    return [name for name in scan.levels() if name not in ("numpy", scan.LEVEL_VARIABLE)]


def measure(case: Case, held: Collection, levels: Sequence[str], rounds: int) -> Rates:
    """Measure every method of a case in turn."""
    methods = searches(case, held, levels)
    few = min(case.batch, INDEX_PQ_QUERIES)
    expected = held.pq.search(held.queries[:few], case.k)[0]
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name, search in methods.items():
            start = time.perf_counter()
            found = search()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
            elif name in levels and case.data != "uniform":
                # The same quantizer and the same queries give the same distances.
                np.testing.assert_allclose(found[0][:few], expected, rtol=1e-3, atol=1e-4)
    os.environ.pop(scan.LEVEL_VARIABLE, None)
    vectors = dict.fromkeys(methods, case.n * case.batch)
    vectors[INDEX_PQ] = case.n * few
    vectors[EVERY_BYTE] = case.n
    out = {}
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        out[name] = Rate(vectors[name] / middle, (high - low) / 2 / middle)
    return out


# What the best level is compared with, and its name in the titles of the columns.
_RATIOS = {INDEX_PQ: INDEX_PQ, FAST_SCAN: "FastScan", EVERY_BYTE: EVERY_BYTE}


def section(title: str, results: dict[Case, Rates]) -> str:
    """A table of millions of vectors a second, and the ratios of the best level to others."""
    names = list(next(iter(results.values())))
    lines = [["million vectors a second", *names, *(f"over {name}" for name in _RATIOS.values())]]
    for case, rates in results.items():
        cells = [f"{r.median / 1e6:,.0f} ±{100 * r.spread:.0f} %" for r in rates.values()]
        best = rates[names[0]].median
        ratios = [f"**{best / rates[other].median:.2f}**" for other in _RATIOS]
        lines.append([_label(case), *cells, *ratios])
    return f"## {title}\n\n" + markdown_table(lines)


def _label(case: Case) -> str:
    """A case in words."""
    return (
        f"{case.data}, {case.n:,} x {case.size} bytes, batch {case.batch}, k {case.k}, "
        f"{case.threads} thread{'s' if case.threads > 1 else ''}"
    )


def cases_by_section(quick: bool) -> dict[str, list[Case]]:
    """The sections of the page and their cases."""
    million = 100_000 if quick else 1_000_000
    largest = million if quick else 10_000_000
    out = {
        PLOTTED: [
            Case("clustered", n, size, batch)
            for size in (4, 8, 16, 32)
            for n in (10_000, 100_000, million)
            for batch in (1, 64)
        ],
        "Large collections, and k": [
            Case("clustered", largest, 8, batch, k) for batch in (1, 64) for k in (1, 10, 100, 1000)
        ],
        "Batches": [Case("clustered", million, 8, batch) for batch in (1, 8, 64, 512)],
        "Threads": [
            Case("clustered", million, 8, batch, 10, threads)
            for batch in (1, 64)
            for threads in (1, 2)
        ],
        "Data": [
            Case(data, n, size, 64)
            for data, n in (("uniform", million), ("real", 50_000))
            for size in (4, 8, 16)
        ],
    }
    return {title: list(dict.fromkeys(cases)) for title, cases in out.items()}


def plot(results: dict[Case, Rates], file: Path) -> None:
    """Plot vectors a second against bytes a vector, for the largest collection."""
    plt = import_pyplot()
    largest = max(case.n for case in results)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, batch in zip(axes, (1, 64), strict=True):
        chosen = {c.size: r for c, r in results.items() if (c.n, c.batch) == (largest, batch)}
        for name in next(iter(chosen.values())):
            if name != IVF_FAST_SCAN:
                rates = [found[name].median / 1e6 for found in chosen.values()]
                style = "--" if name in _RATIOS else "-"
                axis.plot(list(chosen), rates, style, marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="bytes a vector")
        axis.set_xticks(list(chosen), list(map(str, chosen)))
        axis.minorticks_off()
        axis.set_title(f"{largest:,} vectors, batch {batch}, one thread")
        axis.grid(color="#ddd")
    axes[0].set_ylabel("million vectors a second")
    axes[1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def introduction(best: str) -> str:
    """What the page says above its tables."""
    return (
        f"{origin('scan', 'the-scan')} "
        "Cells are million vectors a second: the median of the turns ± half their "
        f"interquartile range; ratios are those of `{best}`. All methods use the same number of "
        "bytes for each vector: hyperpq and IndexPQ have codes of 8 bits, and the FastScan "
        "indexes have twice as many codes of 4 bits. IndexIVFPQFastScan searches a thirty-second "
        f'of its lists and is shown for context. "{EVERY_BYTE}" loads the codes and does nothing '
        "with them; a scan that excludes rows by their first bytes can be faster."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--features",
        type=Path,
        help="cache of benchmarks.quality with cifar10-ii; without it, real codes are left out",
    )
    parser.add_argument(
        "--rounds", type=count, default=7, help="number of turns of each method (default 7)"
    )
    parser.add_argument("--quick", action="store_true", help="take a tenth of the vectors")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results"),
        help="folder of the page and its plot (default docs/results)",
    )
    args = parser.parse_args(argv)
    levels = compiled_levels()
    if not levels:
        raise SystemExit("The scan was not compiled; install hyperpq with a C++17 compiler.")
    sections = ["# The scan", introduction(levels[0])]
    held: tuple[tuple[str, int, int], Collection] | None = None
    for title, cases in cases_by_section(args.quick).items():
        results = {}
        for case in cases:
            if case.data == "real" and args.features is None:
                continue
            key = (case.data, case.n, case.size)
            if held is None or held[0] != key:
                held = None  # free the memory of one collection before the next is made
                held = key, fill(case, args.features)
            results[case] = measure(case, held[1], levels, args.rounds)
            rates = "  ".join(f"{n} {r.median / 1e6:,.0f}" for n, r in results[case].items())
            print(f"{_label(case)}: {rates}", flush=True)
        sections.append(section(title, results))
        if title == PLOTTED:
            args.out.mkdir(parents=True, exist_ok=True)
            plot(results, args.out / "scan.svg")
            sections.append("![vectors a second against bytes a vector](scan.svg)")
    sections.append(f"Measured on {describe_machine()}.")
    page = args.out / "scan.md"
    page.write_text("\n\n".join(sections) + "\n", "utf-8")
    print(page)


if __name__ == "__main__":
    main()
