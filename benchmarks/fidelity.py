"""Recall of exact neighbours by fidelity codes and by FAISS's codes of the same length.

One line of JSON for each method, metric and length is added to ``--out``; what is there already is
not measured again. ``fidelity+`` is ``search(refine="auto")`` of the same index, which keeps no
features. With the metric ``cosine`` the other methods get vectors of unit length.

    python -m benchmarks.fidelity --dataset cifar10-ii --features FOLDER --out recall.jsonl

The tables of docs/method/fidelity.md are those of ``docs/results/runs/fidelity.jsonl``, as `table`
makes them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.baselines import BASELINES, Ids, Vectors, lengths, unit
from benchmarks.featuresets import open_set
from benchmarks.pages import markdown_table
from hyperpq import HiHPQIndex
from hyperpq.evaluation import recall_at
from hyperpq.quantizers.kmeans import import_faiss

OURS, REFINED = "fidelity", "fidelity+"
NAMES = {
    REFINED: '`fidelity`, `refine="auto"`',
    OURS: "`fidelity`",
    **{name: name.upper() for name in ("pq", "opq", "rq", "prq", "lsq", "plsq")},
    "rabitq": "RaBitQ",
}
"""What tables call the methods."""
METHODS = (OURS, "pq", "opq", "rq", "prq", "lsq", "plsq", "rabitq")
METRICS = ("cosine", "l2")
BITS = (16, 32, 64, 128)
K = 100


def neighbours(vectors: Vectors) -> Ids:
    """Rows (nq, 100) of the database nearest to each query by the Euclidean distance."""
    flat = import_faiss().IndexFlatL2(vectors.database.shape[1])
    flat.add(np.ascontiguousarray(vectors.database))
    return flat.search(np.ascontiguousarray(vectors.query), K)[1]


def measure(
    method: str, vectors: Vectors, metric: str, bits: int, seed: int
) -> Iterator[tuple[str, Ids]]:
    """What a method finds: its name and ids (nq, 100), for fidelity codes ranked once and twice.

    With the metric ``cosine`` vectors have unit length.
    """
    if method != OURS:
        yield method, BASELINES[method](vectors, bits, K, seed).ids
        return
    index = HiHPQIndex(
        vectors.train.shape[1], bits // 8, objective=OURS, metric=metric, device="cpu"
    )
    index.train(vectors.train, seed=seed)
    index.add(vectors.database)
    yield OURS, index.search(vectors.query, K)[1]
    yield REFINED, index.search(vectors.query, K, refine="auto")[1]


def table(runs: Sequence[Mapping[str, Any]], dataset: str, metric: str) -> str:
    """Recall@10 / @100 of each method and length as a table; the largest of a length are bold."""
    found = {
        (run["method"], run["bits"]): run
        for run in runs
        if (run["dataset"], run["metric"]) == (dataset, metric)
    }
    best = {
        (bits, field): max((run[field] for (_, of), run in found.items() if of == bits), default=0)
        for bits in BITS
        for field in ("recall10", "recall100")
    }

    def cell(method: str, bits: int) -> str:
        run = found.get((method, bits))
        if run is None:
            return "-"
        parts = []
        for field in ("recall10", "recall100"):
            text = f"{run[field]:.3f}".lstrip("0")
            parts.append(f"**{text}**" if run[field] == best[bits, field] else text)
        return " / ".join(parts)

    rows = [[NAMES[method], *(cell(method, bits) for bits in BITS)] for method in NAMES]
    return markdown_table([["bits", *map(str, BITS)], *rows])


def main() -> None:
    """Measure what is not in the file yet, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", required=True, help="see benchmarks.featuresets")
    parser.add_argument("--features", type=Path, required=True, help="folder of cached features")
    parser.add_argument("--data", type=Path, help="folder of the images, if none are cached")
    parser.add_argument("--out", type=Path, required=True, help="JSON-lines file")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS)
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=BITS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--queries", type=int, help="so many queries, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = open_set(given.dataset, given.data, given.features, queries=given.queries)
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    known = {tuple(json.loads(line)[name] for name in KEY) for line in lines}
    for metric in given.metrics:
        plain = Vectors(found.train, found.query, found.database)
        vectors = Vectors(*map(unit, plain)) if metric == "cosine" else plain
        truth = neighbours(vectors)
        for bits in given.bits:
            for method in given.methods:
                key = (given.dataset, len(found.query), metric, bits, method, given.seed)
                if key in known or bits not in (BITS if method == OURS else lengths(method)):
                    continue
                start = time.perf_counter()
                for name, ids in measure(method, vectors, metric, bits, given.seed):
                    line = dict(zip(KEY, key, strict=True)) | {"method": name}
                    for k in (10, K):
                        line[f"recall{k}"] = round(recall_at(ids[:, :k], truth[:, :k]), 4)
                    line["seconds"] = round(time.perf_counter() - start, 1)
                    with given.out.open("a") as out:
                        out.write(json.dumps(line) + "\n")
                    print(json.dumps(line), flush=True)


KEY = ("dataset", "queries", "metric", "bits", "method", "seed")

if __name__ == "__main__":
    main()
