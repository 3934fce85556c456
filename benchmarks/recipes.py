"""Quality of the training presets on CIFAR-10, protocol II, beside FAISS's PQ and exact search.

    python -m benchmarks.recipes --data DIR --cache DIR [--bits 16,32,64] [--seeds 0]

DIR of ``--data`` holds ``{train,test}/CLASS/*.jpg``. Features and views are extracted once with the
product's own pipeline and kept in ``--cache``. Everything of one table is measured in one run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from hyperpq.backbones import load_backbone
from hyperpq.build_stages import AUGMENTATIONS
from hyperpq.datasets.protocols import Split, cifar10_protocol
from hyperpq.evaluation import mean_average_precision
from hyperpq.features import Reader, extract_features
from hyperpq.index import HiHPQIndex
from hyperpq.training.recipe import get_recipe

TOP = 1000


def features(split: Split, name: str, cache: Path, views: str | None = None) -> NDArray[np.float32]:
    """Features (n, d), or views (V, n, d) of that strength, of a split; from the cache if there."""
    file = cache / f"{name}.npy"
    if not file.exists():
        augmentation = AUGMENTATIONS[views] if views else None
        reader = Reader(augmentation=augmentation, n_views=4 if views else 0)
        start = time.perf_counter()
        found = extract_features(split.paths, load_backbone("lite0"), reader)
        if found.skipped:
            raise SystemExit(f"{len(found.skipped)} pictures of {name} can't be read")
        print(f"extracted {name}: {len(split) / (time.perf_counter() - start):.0f} pictures/s")
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, found.views if views else found.plain)
    return np.load(file, mmap_mode="r")


def exact(queries: NDArray[np.float32], database: NDArray[np.float32]) -> NDArray[np.int64]:
    """Nearest rows by cosine."""
    import faiss

    index = faiss.IndexFlatIP(database.shape[1])
    index.add(_unit(database))
    return index.search(_unit(queries), TOP)[1]


def pq(
    train: NDArray[np.float32],
    queries: NDArray[np.float32],
    database: NDArray[np.float32],
    bits: int,
) -> NDArray[np.int64]:
    """FAISS's PQ on unit-length features."""
    import faiss

    index = faiss.IndexPQ(train.shape[1], bits // 8, 8)
    index.train(_unit(train))
    index.add(_unit(database))
    return index.search(_unit(queries), TOP)[1]


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--bits", default="16,32,64")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--presets", default="paper,default")
    args = parser.parse_args()
    data = cifar10_protocol(args.data, "II", n_query=2000)
    plain = {
        name: np.asarray(features(getattr(data, name), name, args.cache))
        for name in ("train", "query", "database")
    }
    relevant = data.query.labels[:, None]

    def score(found: NDArray[np.int64]) -> float:
        return mean_average_precision(data.database.labels[found] == relevant, TOP)

    print(describe_machine())
    print(f"exact cosine search: mAP@{TOP} {score(exact(plain['query'], plain['database'])):.4f}")
    for bits in map(int, args.bits.split(",")):
        peer = score(pq(plain["train"], plain["query"], plain["database"], bits))
        print(f"{bits:>3} bits  faiss PQ  mAP@{TOP} {peer:.4f}", flush=True)
        for preset in args.presets.split(","):
            recipe = get_recipe(preset, bits)
            views = features(data.train, f"views-{recipe.views}", args.cache, recipe.views)
            for seed in map(int, args.seeds.split(",")):
                index = HiHPQIndex(plain["train"].shape[1], bits // 8)
                trace = args.cache / f"{preset}-{bits}-{seed}.jsonl"
                start = time.perf_counter()
                index.train(plain["train"], views, recipe=recipe, seed=seed, trace_path=trace)
                spent = time.perf_counter() - start
                index.add(plain["database"])
                last = json.loads(trace.read_text().splitlines()[-1])
                print(
                    f"{bits:>3} bits  {preset:<8}  mAP@{TOP} "
                    f"{score(index.search(plain['query'], TOP)[1]):.4f}  seed {seed}  "
                    f"trained {spent:.0f} s  codewords used {last['used']}  "
                    f"curvatures {[-round(c, 2) for c in last['curvature']]}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
