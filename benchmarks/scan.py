"""Speed of the scan, beside faiss.

    python -m benchmarks.scan --features CACHE

How many vectors does a search scan in a second? Every level of the scan (instruction sets) is
measured beside faiss's `IndexPQ`, `IndexPQFastScan` and `IndexIVFPQFastScan` with the same number
of bytes for each vector, and beside a loop that only loads every byte once. The methods take turns
in one run. The page ``scan.md`` and its plot show collections of 10 thousand to 10 million vectors,
code sizes, batches, k, threads and kinds of data.

Codes are those of a product quantizer of faiss on clustered, uniform or real vectors, so that every
index answers the same question. Its codewords are put in the order that `PQCodec.fit` gives them.
Codes of a trained codec are searched beside faiss's indexes of the same features. faiss's times
include its distance tables; hyperpq's tables are made before (they take 2 to 4 microseconds a
query).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import unit
from benchmarks.machine import describe_machine
from benchmarks.options import count
from benchmarks.pages import import_pyplot
from benchmarks.provenance import current_commit
from benchmarks.runlog import RunLog
from benchmarks.scan_page import (
    EVERY_BYTE,
    FAST_SCAN,
    FAST_SCAN_AVX2,
    FIELDS,
    INDEX_PQ,
    IVF_FAST_SCAN,
    PLOTTED,
    RUNS,
    Case,
    Rate,
    Rates,
    label,
    published_cases,
    write_scan_page,
)
from hyperpq import HiHPQIndex, scan
from hyperpq.codes import TiledCodes
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.quantizers.codeword_order import near_codewords_together

# Dimensions of a subquantizer.
WIDTH = 8
# Vectors that are drawn and added to the indexes at a time.
ADDED_AT_ONCE = 200_000
# faiss's IndexPQ searches one query after another, so a few of them tell its speed.
INDEX_PQ_QUERIES = 4
# A collection is searched for about this long at a time, shorter searches several times; and longer
# ones are measured in fewer turns.
SECONDS_AT_ONCE, LONG, LONG_TURNS = 0.01, 0.25, 3
# The objectives of the codecs that are trained, by the name of the data.
CODECS = {"default codec": "semantic", "fidelity codec": "fidelity"}
# Rows and epochs of their training: the codes are not used for their quality.
CODEC_ROWS, CODEC_EPOCHS = 5000, 3


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
    x = unit(real_features(features))
    mean = x.mean(0)
    axes = np.linalg.eigh(np.cov((x[:10_000] - mean).T))[1][:, ::-1][:, :d]
    # Consecutive axes go to different subquantizers; else the first would have all the variance.
    in_turn = np.arange(d).reshape(WIDTH, size).T.ravel()
    return np.ascontiguousarray(((x - mean) @ axes)[:, in_turn], np.float32)[:n]


def real_features(cache: Path | None) -> NDArray[np.float32]:
    """Features of a cache of `benchmarks.quality`."""
    if cache is None:
        raise SystemExit("real codes expected --features, the cache of benchmarks.quality.")
    return np.asarray(np.load(next(cache.glob("cifar10-ii-*/database.npy"))), np.float32)


def codec_codes(case: Case, cache: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes of real features and tables of 512 queries, by a codec that is trained here."""
    x = real_features(cache)[: case.n]
    index = HiHPQIndex(x.shape[1], case.size)
    index.train(
        x[:CODEC_ROWS], seed=0, epochs=CODEC_EPOCHS, objective=CODECS[case.data], progress=False
    )
    codec = index.codec
    assert codec is not None  # It was trained.
    return codec.encode(x), np.ascontiguousarray(codec.tables(x[-512:]), np.float32)


def fill(case: Case, features: Path | None) -> Collection:
    """Train the quantizers and fill every index."""
    import faiss

    d, M = WIDTH * case.size, case.size
    kind = "real" if case.data in CODECS else case.data
    sample = draw_vectors(kind, 50_000, M, 1, features)
    pq = faiss.IndexPQ(d, M, 8)
    fastscan = faiss.IndexPQFastScan(d, 2 * M, 4)
    lists = max(16, min(1024, int(4 * case.n**0.5) // 16 * 16))
    ivf = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(d), d, lists, 2 * M, 4)
    for index in (pq, fastscan, ivf):
        index.train(sample)
    ivf.nprobe = max(1, lists // 32)
    for start in range(0, case.n, ADDED_AT_ONCE):
        rows = min(ADDED_AT_ONCE, case.n - start)
        x = draw_vectors(kind, rows, M, 2 + start, features)
        for index in (pq, fastscan, ivf):
            index.add(x)
    codes = faiss.vector_to_array(pq.codes).reshape(-1, M)
    queries = np.ascontiguousarray(sample[-512:])
    if case.data in CODECS:
        codes, tables = codec_codes(case, features)
        return Collection(scan.prepare(codes), tables, queries, pq, fastscan, ivf)
    words = faiss.vector_to_array(pq.pq.centroids).reshape(M, 256, WIDTH)
    orders = [near_codewords_together(book) for book in words]
    words = np.stack([book[order] for book, order in zip(words, orders, strict=True)])
    numbers = np.stack([np.argsort(order) for order in orders]).astype(np.uint8)
    codes = np.stack([numbers[m][codes[:, m]] for m in range(M)], 1)
    tables = np.empty((len(queries), M, 256), np.float32)
    for m in range(M):  # one subspace at a time, as all gaps would take a gigabyte
        part = queries[:, None, WIDTH * m : WIDTH * (m + 1)]
        tables[:, m] = ((part - words[m]) ** 2).sum(-1)
    return Collection(scan.prepare(codes), tables, queries, pq, fastscan, ivf)


def searches(case: Case, held: Collection, levels: Sequence[str]) -> dict[str, Search]:
    """A function for each method that searches the whole batch once."""
    import faiss

    faiss.omp_set_num_threads(case.threads)
    tables, queries = held.tables[: case.batch], held.queries[: case.batch]

    def search() -> Any:
        return scan.search(tables, held.codes, case.k, threads=case.threads)

    out: dict[str, Search] = dict.fromkeys(levels, search)
    out[INDEX_PQ] = lambda: held.pq.search(queries[:INDEX_PQ_QUERIES], case.k)
    out[FAST_SCAN] = lambda: held.fastscan.search(queries, case.k)
    if faiss_levels():
        out[FAST_SCAN_AVX2] = out[FAST_SCAN]
    out[IVF_FAST_SCAN] = lambda: held.ivf.search(queries, case.k)
    best = compiled_levels()[0]
    out[EVERY_BYTE] = lambda: scan._native.stream(held.codes.data, best)
    return out


def faiss_levels() -> tuple[Any, Any] | None:
    """AVX2 and the widest instruction set of faiss; None if it has no other or no choice."""
    import faiss

    config = getattr(faiss, "SIMDConfig", None)
    if config is None or "avx512bw" not in compiled_levels():
        return None
    return faiss.SIMDLevel_AVX2, config.auto_detect_simd_level()


@contextmanager
def instruction_set(method: str, levels: Sequence[str]) -> Iterator[None]:
    """Let hyperpq, or faiss, use that of a method."""
    choice = faiss_levels()
    with ExitStack() as stack:
        if method in levels:
            os.environ[scan.LEVEL_VARIABLE] = method
            stack.callback(os.environ.pop, scan.LEVEL_VARIABLE)
        if method == FAST_SCAN_AVX2 and choice is not None:
            import faiss

            faiss.SIMDConfig.set_level(choice[0])
            stack.callback(faiss.SIMDConfig.set_level, choice[1])
        yield


def compiled_levels() -> list[str]:
    """The instruction sets that this machine can run, best first."""
    return [name for name in scan.levels() if name not in ("numpy", scan.LEVEL_VARIABLE)]


def measure(case: Case, held: Collection, levels: Sequence[str], rounds: int) -> Rates:
    """Measure every method of a case in turn."""
    methods = searches(case, held, levels)
    few = min(case.batch, INDEX_PQ_QUERIES)
    expected = held.pq.search(held.queries[:few], case.k)[0]
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    times = dict.fromkeys(methods, 1)
    # With one thread, the time of the process: what else runs on the machine counts less.
    clock = time.process_time if case.threads == 1 else time.perf_counter
    for turn in range(rounds + 1):
        for name, search in methods.items():
            if turn > LONG_TURNS and seconds[name][0] > LONG:
                continue
            with instruction_set(name, levels):
                start = clock()
                for _ in range(times[name]):
                    found = search()
                taken = (clock() - start) / times[name]
            if turn:  # the first turn warms up
                seconds[name].append(taken)
                continue
            times[name] = max(1, min(1000, int(SECONDS_AT_ONCE / taken)))
            if name in levels and case.data not in ("uniform", *CODECS):
                # The same quantizer and the same queries give the same distances.
                np.testing.assert_allclose(found[0][:few], expected, rtol=1e-3, atol=1e-4)
    vectors = dict.fromkeys(methods, case.n * case.batch)
    vectors[INDEX_PQ] = case.n * few
    vectors[EVERY_BYTE] = case.n
    out = {}
    for name, measured in seconds.items():
        low, middle, high = (
            statistics.quantiles(measured, n=4) if len(measured) > 1 else measured * 3
        )
        out[name] = Rate(vectors[name] / middle, (high - low) / 2 / middle)
    return out


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
        "Batches": [
            Case("clustered", n, 8, batch) for n in (10_000, million) for batch in (1, 8, 64, 512)
        ],
        "Threads": [
            Case("clustered", million, 8, batch, 10, threads)
            for batch in (1, 64)
            for threads in (1, 2)
        ],
        "Data": [
            Case(data, n, size, 64)
            for data, n in (("uniform", million), ("real", 50_000))
            for size in (4, 8, 16)
        ]
        + [
            Case(data, n, 8, batch)
            for data in CODECS
            for n in (10_000, 50_000)
            for batch in (1, 64)
        ],
        "Large collections, and k": [
            Case("clustered", n, 8, batch, k)
            for n in (million, largest)
            for batch in (1, 64)
            for k in (1, 10, 100, 1000)
        ],
    }
    return {title: list(dict.fromkeys(cases)) for title, cases in out.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--features",
        type=Path,
        help="cache of benchmarks.quality with cifar10-ii; without it, real codes are left out",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FILE",
        help="lines of JSON to which every case is added once it is measured; those that it has "
        "are not measured again",
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
    try:
        measure_all(args)
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


def measure_all(args: argparse.Namespace) -> None:
    """Measure every case and write the page.

    Raises
    ------
    InvalidInputError
        If the page has cases that would not be measured, so that it would become shorter.
    """
    # A missing matplotlib is reported now, not after hours of work.
    import_pyplot()
    levels = compiled_levels()
    if not levels:
        raise InvalidInputError("the scan was not compiled; install hyperpq with a C++17 compiler.")
    cases = [
        (title, case)
        for title, of_section in cases_by_section(args.quick).items()
        for case in of_section
        if case.data not in ("real", *CODECS) or args.features is not None
    ]
    if left := published_cases(args.out) - set(cases):
        title, case = sorted(left)[0]
        raise InvalidInputError(
            f"{args.out / 'scan.md'} has cases that this command does not measure ({title}: "
            f"{label(case)}); leave out --quick, give --features, or give the folder of another "
            "page with --out."
        )
    origin = {"machine": describe_machine(), "commit": current_commit()}
    cache = None if args.cache is None else RunLog(args.cache, FIELDS)
    runs = []
    held: tuple[tuple[str, int, int], Collection] | None = None
    for title, case in cases:
        if cache is not None and (title, *case) in cache:
            runs.append(cache.runs[(title, *case)])
            continue
        key = (case.data, case.n, case.size)
        if held is None or held[0] != key:
            held = None  # free the memory of one collection before the next is made
            held = key, fill(case, args.features)
        rates = measure(case, held[1], levels, args.rounds)
        runs.append({"section": title, **case._asdict(), "rates": rates, **origin})
        if cache is not None:
            cache.append(runs[-1])
        shown = "  ".join(f"{name} {rate.median / 1e6:,.0f}" for name, rate in rates.items())
        print(f"{label(case)}: {shown}", flush=True)
    RunLog(args.out / RUNS, FIELDS).update(runs)
    print(write_scan_page(args.out))


if __name__ == "__main__":
    main()
