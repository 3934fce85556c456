"""Recall of the exact neighbours in codes, up to a million rows, and after refinement.

    python -m benchmarks.recall --dataset cifar10-ii --features CACHE

Which methods find the nearest neighbours of a query at equal bytes, and how does that change as a
database grows? Every method trains on the same rows and encodes the same database
(`benchmarks.recall_sets`), and is searched with the same queries whenever the database has reached
one of the sizes. ``--only refine`` compares refinement with that of faiss and with longer codes
(`benchmarks.recall_refine`).

Each run is appended to ``recall.jsonl`` in the folder of the data set when it is measured, and is
not measured again as long as rows, settings and code are the same. At the end the runs are added to
those that are published beside the page ``recall.md``, which is written from these.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.baselines import Ids
from benchmarks.featuresets import open_set
from benchmarks.machine import describe_machine
from benchmarks.options import add_cache_options, add_published_option, count, some_of
from benchmarks.pages import import_pyplot
from benchmarks.provenance import (
    BASELINE_CODE,
    HYPERPQ_CODE,
    code_digest,
    current_commit,
    digest_settings,
)
from benchmarks.published import take_up
from benchmarks.recall_methods import BASELINES, Codes, MakeCodes, is_installed
from benchmarks.recall_ours import OURS, UNIT_LENGTH, VARIANTS
from benchmarks.recall_page import (
    CURVES,
    DISTANCES,
    METRICS,
    PUBLISHED,
    RANKS,
    REFINE,
    ROWS,
    Key,
    write_recall_page,
)
from benchmarks.recall_refine import SIZE, Refinable, seconds_in_turn
from benchmarks.recall_sets import (
    DEPTH,
    Neighbours,
    Rows,
    as_compared,
    exact_neighbours,
    intrinsic_dimension,
    made_rows,
    open_rows,
    search_blocks,
)
from benchmarks.runlog import Run, RunLog
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.evaluation import recall_at

# In the folder of the data set.
RUNS = "recall.jsonl"
QUERIES = 1000
METHODS: dict[str, MakeCodes] = {**OURS, **BASELINES}
# Turns of the times of refinement.
ROUNDS = 50
SETS_CODE = ("benchmarks/recall_sets.py",)
OURS_CODE = (
    *HYPERPQ_CODE,
    "hyperpq/index/refine.py",
    "benchmarks/recall_ours.py",
    *SETS_CODE,
)
BASELINES_CODE = (*BASELINE_CODE, "benchmarks/recall_methods.py", *SETS_CODE)
REFINE_CODE = (
    *OURS_CODE,
    "hyperpq/index/calibration.py",
    "benchmarks/recall_refine.py",
)


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes
    ----------
    metric : {"cosine", "l2"}
        By which rows are neighbours.
    bytes : int
        Bytes of the codewords of a row.
    sizes : tuple of int
        Numbers of rows, sorted.
    """

    metric: str
    bytes: int
    sizes: tuple[int, ...]


LARGEST = 1_000_000
_SIZES = (10_000, 50_000, 100_000, LARGEST)
CASES = (
    Case("cosine", 8, _SIZES),
    Case("l2", 8, _SIZES),
    Case("cosine", 4, _SIZES[:2]),
    Case("cosine", 16, _SIZES[:2]),
)


def metrics_of(method: str) -> tuple[str, ...]:
    """The metrics that a method can rank by."""
    return ("cosine",) if method in (*UNIT_LENGTH, "scann_dot") else tuple(METRICS)


def recalls(found: Ids, truth: Ids) -> dict[str, Any]:
    """Recall of the true neighbours (nq, DEPTH) in the results (nq, max(RANKS)) of a search.

    Returns
    -------
    dict
        ``recall``: for k = 1, 10 and 100, the share of the k nearest rows among the first k
        results. ``nearest`` and ``ten``: for each of `RANKS`, the share of the nearest row and of
        the ten nearest among so many results.
    """
    return {
        "recall": {str(k): recall_at(found[:, :k], truth[:, :k]) for k in (1, 10, 100)},
        "nearest": {str(r): recall_at(found[:, :r], truth[:, :1]) for r in RANKS},
        "ten": {str(r): recall_at(found[:, :r], truth[:, :10]) for r in RANKS},
    }


def measure(
    codes: Codes, rows: Rows, case: Case, truth: dict[int, Neighbours]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Train, and yield what is found at each size.

    Yields
    ------
    n : int
        Number of rows.
    variant : str
        What follows the name of the method, see `Codes.search`.
    measured : dict
        `recalls`, the bytes of a row, and seconds of training and of encoding so many rows.
    """
    start = time.perf_counter()
    codes.train(as_compared(rows.train, case.metric))
    trained = time.perf_counter() - start
    query = as_compared(rows.query, case.metric)
    encoding, n = 0.0, 0
    for block, complete in rows.blocks(case.sizes, case.metric):
        start = time.perf_counter()
        codes.add(block)
        encoding += time.perf_counter() - start
        n += len(block)
        if complete:
            costs = {
                "stored": codes.bytes,
                "train_seconds": round(trained, 1),
                "encode_seconds": round(encoding, 1),
            }
            for variant, found in codes.search(query, max(RANKS)).items():
                yield n, variant, {**recalls(found, truth[n].ids), **costs}


def describe_rows(
    rows: Rows, case: Case, truth: dict[int, Neighbours], seed: int
) -> list[dict[str, Any]]:
    """Distances from the queries to their neighbours, in databases and in made rows alone.

    Returns
    -------
    list of dict
        ``rows``: ``all``, or ``real`` and ``made`` for half of the real rows and as many made ones.
        ``n``: how many. ``radii``: mean distance to the first, the tenth and the hundredth.
        ``dimension``: `intrinsic_dimension`. ``recall`` of the latter two: recall@10 of the codes
        of ``opq``.
    """
    out = [_describe("all", n, found) for n, found in truth.items()]
    n = len(rows.real) // 2
    made = made_rows(rows.real, rows.neighbours, len(rows.real) - n, 0)
    query = as_compared(rows.query, case.metric)
    for name, part in (("real", rows.real[n:]), ("made", made)):
        x = as_compared(part, case.metric)
        found = next(search_blocks(iter([(x, True)]), query))
        codes = BASELINES["opq"](rows.d, case.bytes, case.metric, seed)
        codes.train(as_compared(rows.train, case.metric))
        codes.add(x)
        recall = recall_at(codes.search(query, 10)[""], found.ids[:, :10])
        out.append({**_describe(name, len(x), found), "recall": recall})
    return out


def _describe(name: str, n: int, found: Neighbours) -> dict[str, Any]:
    radii = np.sqrt(np.maximum(found.distances, 0)).mean(0)
    return {
        "rows": name,
        "n": n,
        "radii": [float(radii[k - 1]) for k in (1, 10, 100)],
        "dimension": intrinsic_dimension(found.distances),
    }


class RecallBench:
    """Measures what its log does not hold as it would be measured now.

    Parameters
    ----------
    rows : Rows
    folder : Path
        Where runs and exact neighbours are kept.
    fresh : bool
        Measure everything that is asked for again.
    """

    def __init__(self, rows: Rows, folder: Path, fresh: bool = False) -> None:
        self.rows, self.folder, self.fresh = rows, folder, fresh
        self.log = RunLog(folder / RUNS, Key._fields)

    def digests(self, key: Key) -> dict[str, str]:
        """What a run is measured on and with."""
        code = OURS_CODE if key.method.startswith("hyperpq") else BASELINES_CODE
        settings = key._replace(n=0)._asdict()
        return {
            "rows": self.rows.digest,
            "settings": digest_settings(settings),
            "code": code_digest(REFINE_CODE if key.part == REFINE else code),
        }

    def is_current(self, run: Run) -> bool:
        """Whether a run is what would be measured now."""
        key = Key(*self.log.key_of(run))
        return bool(run["digests"] == self.digests(key))

    def is_missing(self, key: Key) -> bool:
        """Whether a run is to be measured."""
        return self.fresh or key not in self.log or not self.is_current(self.log.runs[key])

    def truth(self, case: Case) -> dict[int, Neighbours]:
        """The exact neighbours in the databases of a case."""
        return exact_neighbours(self.rows, case.sizes, case.metric, self.folder)

    def run_curves(self, case: Case, methods: Sequence[str], seed: int) -> None:
        """Measure the recall of those of the methods that can rank by the metric of the case."""
        for method in methods:
            if case.metric not in metrics_of(method):
                continue
            if not is_installed(method):
                print(f"{method} is not installed; left out", flush=True)
                continue
            first = Key(CURVES, method, case.metric, case.bytes, case.sizes[0], seed)
            if not any(
                self.is_missing(first._replace(method=method + variant, n=n))
                for n in case.sizes
                for variant in VARIANTS.get(method, ("",))
            ):
                continue
            codes = METHODS[method](self.rows.d, case.bytes, case.metric, seed)
            for n, variant, measured in measure(codes, self.rows, case, self.truth(case)):
                self.record(first._replace(method=method + variant, n=n), measured)

    def describe_rows(self, case: Case, seed: int) -> None:
        """Measure what the rows of a case are like."""
        key = Key(ROWS, DISTANCES, case.metric, case.bytes, case.sizes[-1], seed)
        if self.is_missing(key):
            steps = describe_rows(self.rows, case, self.truth(case), seed)
            self.record(key, {"steps": steps})

    def run_refinement(self, seed: int) -> None:
        """Measure refinement among the real rows."""
        n = len(self.rows.real)
        case = Case("cosine", SIZE, (n,))
        key = Key(REFINE, "", case.metric, SIZE, n, seed)
        done = {run["method"] for run in self.log.runs.values() if run["part"] == REFINE}
        if done and not any(self.is_missing(key._replace(method=method)) for method in done):
            return
        truth = self.truth(case)[n].ids
        methods = Refinable(self.rows, seed).methods
        query = as_compared(self.rows.query, case.metric)
        seconds = seconds_in_turn(methods, query, ROUNDS)
        for method, (stored, search) in methods.items():
            found = search(query, DEPTH)  # the first of it are those for fewer
            measured = {
                "recall": {str(k): recall_at(found[:, :k], truth[:, :k]) for k in (1, 10, 100)},
                "stored": stored,
                "ms": 1e3 * seconds[method],
            }
            self.record(key._replace(method=method), measured)

    def record(self, key: Key, measured: dict[str, Any]) -> None:
        """Add what was measured to the log, and print it."""
        print(*key, measured.get("recall", measured), flush=True)
        self.log.append(
            {
                **key._asdict(),
                **measured,
                "real": min(key.n, len(self.rows.real)),
                "train": len(self.rows.train),
                "queries": len(self.rows.query),
                "machine": describe_machine(),
                "versions": f"torch {torch.__version__}, faiss {faiss.__version__}",
                "threads": torch.get_num_threads(),
                "commit": current_commit(),
                "digests": self.digests(key),
            }
        )


def chosen_cases(args: argparse.Namespace) -> list[Case]:
    """The cases that the options ask for.

    Raises
    ------
    InvalidInputError
        If there are none.
    """
    found = [
        Case(case.metric, case.bytes, tuple(n for n in case.sizes if n <= args.largest))
        for case in CASES
        if case.metric in args.metrics and args.bytes in (None, case.bytes)
    ]
    found = [case for case in found if case.sizes]
    if not found:
        known = "; ".join(f"{one.metric}, {one.bytes} bytes, {one.sizes} rows" for one in CASES)
        raise InvalidInputError(
            f"there are no curves of {', '.join(args.metrics)} with {args.bytes or 'any'} bytes "
            f"and up to {args.largest:,} rows; expected some of: {known}."
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", default="cifar10-ii", help="as of benchmarks.quality (default cifar10-ii)"
    )
    parser.add_argument("--data", type=Path, help="folder of the images, until they are cached")
    parser.add_argument(
        "--only", choices=(CURVES, ROWS, REFINE), help="one part of the page (default: all)"
    )
    parser.add_argument(
        "--metrics",
        type=some_of(list(METRICS)),
        default=list(METRICS),
        help=f"of the curves, some of {','.join(METRICS)}",
    )
    parser.add_argument(
        "--bytes", type=count, help="length of a code in the curves (default: 4, 8 and 16)"
    )
    parser.add_argument(
        "--methods",
        type=some_of(list(METHODS)),
        default=list(METHODS),
        help=f"of the curves, some of {','.join(METHODS)}",
    )
    parser.add_argument(
        "--largest", type=count, default=LARGEST, help=f"largest database (default {LARGEST:,})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed (default 0)")
    parser.add_argument("--fresh", action="store_true", help="measure all again that is asked for")
    add_published_option(parser)
    add_cache_options(parser)
    args = parser.parse_args(argv)
    try:
        run(args)
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


def run(args: argparse.Namespace) -> None:
    """Measure what the options ask for, publish it and write the page."""
    import_pyplot()  # a missing matplotlib is reported now
    cases = chosen_cases(args)
    features = open_set(args.dataset, args.data, args.features)
    bench = RecallBench(open_rows(features, QUERIES), features.folder, args.fresh)
    published = RunLog(args.out / PUBLISHED, Key._fields)
    if args.published:
        taken, left = take_up(bench.log, published.runs.values(), bench.is_current)
        print(f"took up {taken} published runs; {left} are not what would be measured now")
    for case in cases:
        if args.only in (None, CURVES):
            bench.run_curves(case, args.methods, args.seed)
        if args.only in (None, ROWS) and case.bytes == SIZE:
            bench.describe_rows(case, args.seed)
    if args.only in (None, REFINE):
        bench.run_refinement(args.seed)
    published.update(bench.log.runs.values())
    print(write_recall_page(args.out))


if __name__ == "__main__":
    main()
