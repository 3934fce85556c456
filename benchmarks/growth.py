"""Indexes that grow: what is lost if the codec stays, and if it is learned again when it should be.

    python -m benchmarks.growth --scenes SCENES --cifar CIFAR10 --drawn DIR --features CACHE

An index begins with few images, or with images of one kind, and grows in steps. After each step
the page ``growth.md`` compares the precision@10 of three indexes of 64-bit codes: one that kept its
first codec, one that learned again whenever the policy of `hyperpq.images.relearning` said so, and
one that was built anew from all images, with augmented views as in a build. The features are those
of the images, extracted once; learning again uses the kept features (int8), without views.

Each curve is appended to ``CACHE/growth-runs.jsonl`` when it is measured. It is not measured again
as long as features, policy and code are the same (`provenance`). At the end, the runs are added to
those that are published beside the page, and the page is written from these.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.growth_page import (
    ANEW,
    BYTES,
    FIELDS,
    KINDS,
    PUBLISHED,
    RELEARNED,
    STAYED,
    TIMES,
    TOP,
    write_growth_page,
)
from benchmarks.growth_sets import (
    CURVES,
    Curve,
    Floats,
    Kind,
    Labels,
    Part,
    Sets,
    part_of,
    unviewed,
)
from benchmarks.machine import describe_machine
from benchmarks.options import add_cache_options, count
from benchmarks.pages import import_pyplot
from benchmarks.provenance import (
    HYPERPQ_CODE,
    DataDigests,
    code_digest,
    current_commit,
    digest_settings,
)
from benchmarks.runlog import Run, RunLog
from benchmarks.tasks import run_tasks
from hyperpq import HiHPQIndex
from hyperpq.errors import HyperPQError
from hyperpq.images.relearning import POLICY, relearn_if_needed
from hyperpq.training.fit import FitStatistics

# In the cache.
RUNS = "growth-runs.jsonl"
# Features that are compared with what a codec was learned from.
NEW = 600
# Numbers of images whose time of learning again is measured, and those of the codec before.
TIMED, TIMED_FROM = (159, 1000, 5000, 25_000), 50


def grown(parts: list[Part], before: Sequence[int], after: Sequence[int]) -> Floats:
    """The features that a step adds."""
    return np.concatenate([part.x[a:b] for part, a, b in zip(parts, before, after, strict=True)])


def built_anew(parts: list[Part], numbers: Sequence[int], seed: int = 0) -> HiHPQIndex:
    """An index that is built from all images, in the order in which the others were given them."""
    x = grown(parts, [0] * len(parts), numbers)
    starts = np.cumsum([0, *numbers])
    viewed = [
        (part.views[:, :n], start + np.arange(n))
        for part, n, start in zip(parts, numbers, starts, strict=False)
        if part.views is not None and n
    ]
    index = HiHPQIndex(x.shape[1], M=BYTES, features="int8", device="cpu")
    index.train(
        x,
        np.concatenate([views for views, _ in viewed], 1),
        view_rows=np.concatenate([rows for _, rows in viewed]),
        seed=seed,
    )
    index.add(x)
    return index


def precision(index: HiHPQIndex, parts: list[Part], labels: Labels) -> float:
    """Precision@10 of the queries of all classes that the index has images of.

    Where it has fewer than ten of a query's class, the first results that are as many count. Kinds
    weigh as much as they have images.
    """
    sizes, total, weights = np.bincount(labels), 0.0, 0
    for part in parts:
        n = int(np.isin(labels, part.labels).sum())
        there = np.isin(part.query_labels, labels)
        if not n:
            continue
        wanted = part.query_labels[there]
        found = index.search(part.query[there], TOP)[1]
        known = np.where(found >= 0, labels[found.clip(0)], -1)
        most = np.minimum(TOP, sizes[wanted])
        counts = np.arange(TOP) < most[:, None]
        shares = ((known == wanted[:, None]) & counts).sum(1) / most
        total, weights = total + n * float(shares.mean()), weights + n
    return total / weights


def measure_curve(sets: Sets, task: tuple[Curve, int]) -> list[Run]:
    """The steps of a curve with a seed."""
    curve, seed = task
    parts = [part_of(sets.open(kind.set), kind, seed) for kind in curve.kinds]
    return measure(parts, curve.steps, seed, f"{curve.name}, seed {seed}")


def measure(
    parts: list[Part], steps: Sequence[tuple[int, ...]], seed: int = 0, title: str = ""
) -> list[Run]:
    """Grow the three indexes and measure them after each step."""
    found = []
    before = (0,) * len(steps[0])
    labels = np.empty(0, np.int64)
    stayed = relearned = None
    for numbers in steps:
        new = grown(parts, before, numbers)
        labels = np.concatenate(
            [labels, *(p.labels[a:b] for p, a, b in zip(parts, before, numbers, strict=True))]
        )
        start = time.perf_counter()
        anew = built_anew(parts, numbers, seed)
        anew_seconds = time.perf_counter() - start
        # The images of an index that is built anew are in another order.
        order = np.concatenate([p.labels[:n] for p, n in zip(parts, numbers, strict=True)])
        reason, seconds = None, 0.0
        if stayed is None or relearned is None:
            stayed, relearned = anew.clone(), anew.clone()
        else:
            stayed.add(new)
            relearned.add(new)
            start = time.perf_counter()
            reason = relearn_if_needed(relearned, seed=seed)
            seconds = time.perf_counter() - start
        record = relearned.training
        values = {
            STAYED: precision(stayed, parts, labels),
            RELEARNED: precision(relearned, parts, labels),
            ANEW: precision(anew, parts, order),
        }
        found.append(
            {
                "numbers": list(numbers),
                "precision": values,
                "unlike": stayed.training.fit.unlike(new) if stayed.training else 0.0,
                "reason": reason,
                "learned from": record.n if record else 0,
                "seconds": [round(seconds, 1), round(anew_seconds, 1)],
            }
        )
        shown = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        print(f"{title}: {numbers}: {shown} ({reason or 'kept'})", flush=True)
        before = numbers
    return found


def measure_kinds(sets: Sets) -> list[dict[str, Any]]:
    """Share of features that the policy takes for another kind, by what the codec was learned from.

    Returns
    -------
    list of dict
        ``learned``: what was learned from, ``n``: how many. ``shares``: by what is new.
    """
    scenes, cifar = sets.open("scenes"), sets.open("cifar")
    drawings = unviewed(sets.open("drawn")).x[:NEW]
    found = []
    for name, features, classes, n, others in (
        ("scenes, all classes", scenes, None, 200, cifar),
        ("scenes, all classes", scenes, None, 1000, cifar),
        ("scenes, one class", scenes, [1], 180, cifar),
        ("scenes, five classes", scenes, range(5), 800, cifar),
        ("CIFAR-10, all classes", cifar, None, 1000, scenes),
        ("CIFAR-10, one class", cifar, [0], 300, scenes),
        ("CIFAR-10, five classes", cifar, range(5), 2000, scenes),
    ):
        known = unviewed(features, classes)
        statistics = FitStatistics.of(known.x[:n])
        new = {"more of the same": known.x[n:][:NEW]}
        if classes is None:
            one = known.labels[n:] == known.labels[-1]
            new["one of the classes"] = known.x[n:][one][:NEW]
        else:
            rest = [c for c in np.unique(features.protocol.database.labels) if c not in classes]
            new["other classes"] = unviewed(features, rest).x[:NEW]
        new["other photographs"] = unviewed(others).x[:NEW]
        new["drawings"] = drawings
        shares = {what: round(statistics.unlike(x), 3) for what, x in new.items()}
        found.append({"learned": name, "n": n, "shares": shares})
    return found


def measure_times(sets: Sets) -> list[dict[str, Any]]:
    """Seconds of learning again from the kept features of images of CIFAR-10.

    Returns
    -------
    list of dict
        ``n``: images. ``wall``, ``processor``: seconds.
    """
    database = sets.open("cifar").database
    order, found = np.random.default_rng(0).permutation(len(database)), []
    for n in TIMED:
        x = database[np.sort(order[:n])]
        index = HiHPQIndex(x.shape[1], M=BYTES, features="int8", device="cpu")
        index.train(x[:TIMED_FROM])
        index.add(x)
        wall, processor = time.perf_counter(), time.process_time()
        index.retrain()
        seconds = {
            "wall": round(time.perf_counter() - wall, 1),
            "processor": round(time.process_time() - processor, 1),
        }
        found.append({"n": n, **seconds})
        print(f"{TIMES}: {n:,} images: {seconds}", flush=True)
    return found


@functools.cache
def _data_digest(sets: Sets, name: str, views: bool) -> tuple[str, str]:
    digests = DataDigests(sets.open(name))
    return digests.features("mild" if views else None), digests.protocol


def identity(sets: Sets, kinds: Sequence[Kind], settings: Any) -> dict[str, str]:
    """What a run is measured on and with: digests of features, settings, policy and code."""
    return {
        "features": digest_settings(
            {"sets": [_data_digest(sets, kind.set, kind.views) for kind in kinds]}
        ),
        "settings": digest_settings({"settings": settings}),
        "policy": digest_settings({"limits": POLICY.limits}),
        "code": code_digest(HYPERPQ_CODE),
    }


def run_missing(sets: Sets, log: RunLog, seeds: int, jobs: int, fresh: bool) -> None:
    """Measure what the log does not hold as it would be measured now."""
    everything = [Kind(name, views=False) for name in ("cifar", "scenes", "drawn")]
    identities: dict[tuple[str, int], dict[str, str]] = {
        (curve.name, seed): identity(
            sets, curve.kinds, [[list(step) for step in curve.steps], curve.kinds, seed]
        )
        for seed in range(seeds)
        for curve in CURVES
    }
    identities[KINDS, 0] = identity(sets, everything, NEW)
    identities[TIMES, 0] = identity(sets, everything[:1], TIMED)
    missing = {
        key
        for key, digests in identities.items()
        if fresh or key not in log or log.runs[key].get("digests") != digests
    }

    def record(key: tuple[str, int], steps: list[Run]) -> None:
        origin = {
            "machine": describe_machine(),
            "threads": torch.get_num_threads(),
            "commit": current_commit(),
        }
        name, seed = key
        log.append(
            {"curve": name, "seed": seed, "steps": steps, **origin, "digests": identities[key]}
        )

    tasks = [(c, seed) for seed in range(seeds) for c in CURVES if (c.name, seed) in missing]
    for (curve, seed), steps in run_tasks(functools.partial(measure_curve, sets), tasks, jobs):
        record((curve.name, seed), steps)
    if (KINDS, 0) in missing:
        record((KINDS, 0), measure_kinds(sets))
    if (TIMES, 0) in missing:
        record((TIMES, 0), measure_times(sets))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path, help="folder of class folders of photographs")
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10, see benchmarks.quality")
    parser.add_argument("--drawn", type=Path, help="folder of the drawn set, drawn if missing")
    parser.add_argument(
        "--seeds", type=count, default=1, help="number of seeds, counted from 0 (default 1)"
    )
    parser.add_argument("--jobs", type=count, default=1, help="curves side by side (default 1)")
    parser.add_argument("--fresh", action="store_true", help="measure all curves again")
    add_cache_options(parser)
    args = parser.parse_args(argv)
    try:
        import_pyplot()
        sets = Sets(args.scenes, args.cifar, args.drawn, args.features)
        log = RunLog(args.features / RUNS, FIELDS)
        run_missing(sets, log, args.seeds, args.jobs, args.fresh)
        RunLog(args.out / PUBLISHED, FIELDS).update(log.runs.values())
        print(write_growth_page(args.out, [curve.name for curve in CURVES]))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
