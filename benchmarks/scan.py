"""The scan beside faiss: vectors a second of every level, with baselines taken in turn in one run.

Codes are those of a product quantizer of faiss on clustered, uniform or real vectors, so that every
index answers the same question; faiss's times include its distance tables, ours are given them
(they take 2 to 4 microseconds a query). All baselines have the same bytes a vector.
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
from benchmarks.results import import_pyplot, markdown
from hyperpq import scan
from hyperpq.codes import TiledCodes

WIDTH = 8  # dimensions of a subquantizer
_CHUNK = 200_000


class Case(NamedTuple):
    """What is searched: `data` is clustered, uniform or real, `size` bytes a vector."""

    data: str
    n: int
    size: int
    batch: int = 1
    k: int = 10
    threads: int = 1


class Contents(NamedTuple):
    """Vectors as every contender has them."""

    tiled: TiledCodes
    tables: NDArray[np.float32]
    queries: NDArray[np.float32]
    pq: Any
    fastscan: Any
    ivf: Any


def vectors(data: str, n: int, size: int, seed: int, features: Path | None) -> NDArray[np.float32]:
    """Vectors (n, 8 size): noise around 1,000 centres, uniform, or PCA of kept features."""
    rng = np.random.default_rng(seed)
    d = WIDTH * size
    if data == "uniform":
        return rng.random((n, d), np.float32)
    if data == "clustered":
        centres = np.random.default_rng(0).normal(size=(1000, d)).astype(np.float32)
        noise = rng.normal(scale=0.5, size=(n, d)).astype(np.float32)
        return centres[rng.integers(0, 1000, n)] + noise
    if features is None:
        raise SystemExit("real codes need --features, a CACHE of benchmarks.quality.")
    kept = np.load(next(features.glob("cifar10-ii-*/database.npy")))
    x = unit(kept)
    mean = x.mean(0)
    axes = np.linalg.eigh(np.cov((x[:10_000] - mean).T))[1][:, ::-1][:, :d]
    # Consecutive axes to different subquantizers, or the first would have all the spread.
    deal = np.arange(d).reshape(WIDTH, size).T.ravel()
    return np.ascontiguousarray(((x - mean) @ axes)[:, deal], np.float32)[:n]


def contents(case: Case, features: Path | None) -> Contents:
    """Train the quantizers and fill every index."""
    import faiss

    d, M = WIDTH * case.size, case.size
    sample = vectors(case.data, 50_000, M, 1, features)
    pq = faiss.IndexPQ(d, M, 8)
    fastscan = faiss.IndexPQFastScan(d, 2 * M, 4)
    lists = max(16, min(1024, int(4 * case.n**0.5) // 16 * 16))
    ivf = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(d), d, lists, 2 * M, 4)
    for index in (pq, fastscan, ivf):
        index.train(sample)
    ivf.nprobe = max(1, lists // 32)
    for start in range(0, case.n, _CHUNK):
        count = min(_CHUNK, case.n - start)
        x = vectors(case.data, count, M, 2 + start, features)
        for index in (pq, fastscan, ivf):
            index.add(x)
    codes = faiss.vector_to_array(pq.codes).reshape(-1, M)
    queries = np.ascontiguousarray(sample[-512:])
    words = faiss.vector_to_array(pq.pq.centroids).reshape(M, 256, WIDTH)
    gap = queries.reshape(-1, M, 1, WIDTH) - words
    tables = np.ascontiguousarray((gap**2).sum(-1), np.float32)
    return Contents(scan.prepare(codes), tables, queries, pq, fastscan, ivf)


def contenders(case: Case, held: Contents, levels: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """One search of the whole batch for each contender."""
    import faiss

    faiss.omp_set_num_threads(case.threads)
    tables, queries = held.tables[: case.batch], held.queries[: case.batch]
    one = queries[: min(case.batch, 4)]  # IndexPQ takes queries one by one: four tell enough

    def at(level: str) -> Callable[[], Any]:
        def search() -> Any:
            os.environ[scan.LEVEL_VARIABLE] = level
            return scan.search(tables, held.tiled, case.k, threads=case.threads)

        return search

    out: dict[str, Callable[[], Any]] = {level: at(level) for level in levels}
    out["IndexPQ"] = lambda: held.pq.search(one, case.k)
    out["IndexPQFastScan"] = lambda: held.fastscan.search(queries, case.k)
    out["IndexIVFPQFastScan"] = lambda: held.ivf.search(queries, case.k)
    best = _compiled()[0]
    out["every byte once"] = lambda: scan._native.stream(held.tiled.data, best)
    return out


def _compiled() -> list[str]:
    return [name for name in scan.levels() if name not in ("numpy", scan.LEVEL_VARIABLE)]


def measure(
    case: Case, held: Contents, levels: Sequence[str], rounds: int
) -> dict[str, tuple[float, float]]:
    """Vectors a second of each contender: median and spread (half the middle half, relative)."""
    runs = contenders(case, held, levels)
    want = held.pq.search(held.queries[:4], case.k)[0]
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, search in runs.items():
            start = time.perf_counter()
            found = search()
            if turn:  # the first turn warms up
                spent[name].append(time.perf_counter() - start)
            elif name in levels and case.data != "uniform":
                # The same quantizer and the same question: the same distances.
                np.testing.assert_allclose(found[0][:4], want[: case.batch], rtol=1e-3, atol=1e-4)
    os.environ.pop(scan.LEVEL_VARIABLE, None)
    per_call = dict.fromkeys(runs, case.n * case.batch)
    per_call["IndexPQ"] = case.n * min(case.batch, 4)
    per_call["every byte once"] = case.n
    out = {}
    for name, times in spent.items():
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        out[name] = (per_call[name] / middle, (high - low) / 2 / middle)
    return out


def table(title: str, results: dict[Case, dict[str, tuple[float, float]]], first: str) -> str:
    """Millions of vectors a second, and ratios of the best level to the baselines."""
    names = list(next(iter(results.values())))
    head = [first, *names, "over IndexPQ", "over FastScan", "of the floor"]
    lines = [head]
    for case, found in results.items():
        rates = [f"{rate / 1e6:,.0f} ±{100 * spread:.0f} %" for rate, spread in found.values()]
        ours = found[names[0]][0]
        baselines = ("IndexPQ", "IndexPQFastScan", "every byte once")
        ratios = [f"**{ours / found[baseline][0]:.2f}**" for baseline in baselines]
        lines.append([_label(case), *rates, *ratios])
    return f"## {title}\n\n" + markdown(lines)


def _label(case: Case) -> str:
    return (
        f"{case.data}, {case.n:,} x {case.size} bytes, batch {case.batch}, k {case.k}, "
        f"{case.threads} thread{'s' if case.threads > 1 else ''}"
    )


def questions(quick: bool) -> dict[str, list[Case]]:
    """What is asked, each with the cases that answer it."""
    million = 100_000 if quick else 1_000_000
    most = million if quick else 10_000_000
    out = {
        "Collections and lengths": [
            Case("clustered", n, size, batch)
            for size in (4, 8, 16, 32)
            for n in (10_000, 100_000, million)
            for batch in (1, 64)
        ],
        "Large collections, and k": [
            Case("clustered", most, 8, batch, k) for batch in (1, 64) for k in (1, 10, 100, 1000)
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


def plot(results: dict[Case, dict[str, tuple[float, float]]], file: Path) -> None:
    """Vectors a second against bytes a vector, for the largest collection of the first question."""
    plt = import_pyplot()
    largest = max(case.n for case in results)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, batch in zip(axes, (1, 64), strict=True):
        chosen = {c.size: r for c, r in results.items() if (c.n, c.batch) == (largest, batch)}
        for name in next(iter(chosen.values())):
            if name != "IndexIVFPQFastScan":
                rates = [found[name][0] / 1e6 for found in chosen.values()]
                baseline = name.startswith(("Index", "every"))
                axis.plot(list(chosen), rates, "--" if baseline else "-", marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="bytes a vector")
        axis.set_xticks(list(chosen), list(map(str, chosen)))
        axis.minorticks_off()
        axis.set_title(f"{largest:,} vectors, batch {batch}, one thread")
        axis.grid(color="#ddd")
    axes[0].set_ylabel("million vectors a second")
    axes[1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--features", type=Path, help="CACHE of benchmarks.quality with cifar10-ii, for real codes")
    add("--rounds", type=int, default=7, help="turns of each contender (default 7)")
    add("--quick", action="store_true", help="a tenth of the vectors, without real codes")
    add("--out", type=Path, default=Path("docs/results"), help="folder of the page and its plot")
    args = parser.parse_args(argv)
    levels = _compiled()
    if not levels:
        raise SystemExit("nothing was compiled: install hyperpq with a C++17 compiler first.")
    parts = [
        "# The scan",
        "Made by `python -m benchmarks.scan`, see [its options](../../benchmarks/README.md#the-"
        "scan). Million vectors a second, median ± half the middle half of the turns; the ratios "
        f"are those of `{levels[0]}`. All contenders have the same bytes a vector: IndexPQ has "
        "codes of 8 bits as we have, the FastScan indexes twice as many of 4 bits. "
        "IndexIVFPQFastScan looks at a thirty-second of its lists and is there for context. "
        '"every byte once" loads the codes and does nothing with them; a scan that rules rows out '
        "by their first bytes can pass it.",
    ]
    held: tuple[tuple[str, int, int], Contents] | None = None
    for title, cases in questions(args.quick).items():
        results = {}
        for case in cases:
            if case.data == "real" and args.features is None:
                continue
            key = (case.data, case.n, case.size)
            if held is None or held[0] != key:
                held = None  # one at a time in memory
                held = key, contents(case, args.features)
            results[case] = measure(case, held[1], levels, args.rounds)
            rates = "  ".join(f"{n} {r / 1e6:,.0f}" for n, (r, _) in results[case].items())
            print(f"{_label(case)}: {rates}", flush=True)
        parts.append(table(title, results, "million vectors a second"))
        if title == "Collections and lengths":
            args.out.mkdir(parents=True, exist_ok=True)
            plot(results, args.out / "scan.svg")
            parts.append("![vectors a second against bytes a vector](scan.svg)")
    parts.append(f"Measured on {describe_machine()}.")
    page = args.out / "scan.md"
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    print(page)


if __name__ == "__main__":
    main()
