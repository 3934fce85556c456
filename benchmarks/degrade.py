"""Quality against the size of the database: whether codes degrade as it grows.

    python -m benchmarks.degrade --dataset cifar10-ii --features CACHE \
        [--others scenes15 ...] [--images DIR --device cuda] [--sizes 10000 100000 ...]

The first rows of the database are images of a data set, each class in its proportion; every row
after them is a distractor, which is relevant to no query. Distractors are, in this order, the
cached features of other sets (``--others``) and of their views, and views of the images of a folder
(``--images``), crops with changed colours, of which each is another one; they are made and encoded
on the device. The codecs learn from the training images of the data set alone, before there is any
distractor, and so are not adapted to them.

Every method encodes the same rows, and is searched with the same queries whenever the database has
reached one of the sizes; exact search of the features is among them. Each size is appended to
``degrade.jsonl`` in the folder of the data set. The page ``degrade.md`` is written from the
published runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.baselines import Floats, Ids, unit
from benchmarks.degrade_page import PUBLISHED, Key, write_degrade_page
from benchmarks.featuresets import FeatureSet, open_set, set_name
from benchmarks.machine import describe_machine
from benchmarks.options import add_cache_options, count
from benchmarks.provenance import current_commit
from benchmarks.recall_methods import FaissCodes
from benchmarks.runlog import RunLog
from hyperpq import HiHPQIndex
from hyperpq.backbones import load_backbone
from hyperpq.datasets.augment import PAPER, Augmentation
from hyperpq.datasets.device_views import DeviceViews
from hyperpq.datasets.folder import list_images
from hyperpq.errors import InvalidInputError
from hyperpq.evaluation import mean_average_precision, precision_at, recall_at
from hyperpq.images.decoders import Workers, make_decoder
from hyperpq.images.decoding import Decoding, ReadImage
from hyperpq.training.presets import get_recipe
from hyperpq.training.train import train_codec

RUNS = "degrade.jsonl"
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
DEPTH, DEPTHS = 1000, (10, 100, 1000)
# Rows that are encoded at once.
BLOCK = 8192
METHODS = ("exact raw", "hyperpq default", "hyperpq fidelity", "pq", "rq")
# Images of the folder that are used at most: their pixels are in memory, 150 kB each.
MOST_IMAGES = 20_000
VIEWS = {"all": PAPER, "crops": replace(PAPER, jitter_p=0.0, grey_p=0.0, blur_p=0.0)}
"""Changes of the views of a folder; ``crops`` leaves out those of colour and sharpness."""


class Searched(Protocol):
    """A database that grows and is searched."""

    def add(self, x: Floats) -> None:
        """Append rows (n, d)."""

    def search(self, query: Floats, k: int) -> dict[str, Ids]:
        """The k nearest rows (nq, k); the values of the only entry."""


class Exact:
    """The nearest rows by cosine, found as rows are added; no row is kept.

    Parameters
    ----------
    query : ndarray, shape (nq, d), float32
        All queries that will be searched.
    k : int
        Neighbours that are kept of each.
    device : str
        Where products are computed.
    """

    def __init__(self, query: Floats, k: int, device: str) -> None:
        self._query = torch.from_numpy(unit(query)).to(device)
        self._cosine = torch.full((len(query), k), -2.0, device=device)
        self._ids = torch.full((len(query), k), -1, dtype=torch.int64, device=device)
        self._n = 0

    def add(self, x: Floats) -> None:
        """Compare rows (n, d) with all queries."""
        rows = torch.from_numpy(unit(x)).to(self._query.device)
        cosine = torch.cat([self._cosine, self._query @ rows.T], 1)
        ids = torch.arange(self._n, self._n + len(x), device=rows.device)
        ids = torch.cat([self._ids, ids.expand(len(cosine), -1)], 1)
        self._cosine, best = cosine.topk(self._ids.shape[1], 1)
        self._ids = ids.gather(1, best)
        self._n += len(x)

    def search(self, query: Floats, k: int) -> dict[str, Ids]:
        """The nearest rows so far, of all queries."""
        return {"": self._ids[:, :k].cpu().numpy()}


class Ours:
    """An index of hyperpq that has learned from the training images and their views."""

    def __init__(self, objective: str, features: FeatureSet, bits: int, seed: int, device: str):
        recipe = get_recipe("default", bits, objective=objective)
        views = rows = None
        if recipe.is_semantic and recipe.views.n_views:
            views = features.views(recipe.views.augmentation)[: recipe.views.n_views]
            rows = features.view_rows
        codec = train_codec(
            features.train, views, view_rows=rows, M=bits // 8, recipe=recipe, seed=seed
        )
        self._index = HiHPQIndex.from_codec(codec, device=device)

    def add(self, x: Floats) -> None:
        """Encode and append rows (n, d)."""
        self._index.add(x)

    def search(self, query: Floats, k: int) -> dict[str, Ids]:
        """The k nearest rows (nq, k)."""
        return {"": self._index.search(query, k)[1]}


def make_method(name: str, features: FeatureSet, bits: int, seed: int, device: str) -> Searched:
    """A trained method with an empty database."""
    if name == "exact raw":
        return Exact(features.query, DEPTH, device)
    if name.startswith("hyperpq "):
        objective = "fidelity" if name.endswith("fidelity") else "semantic"
        return Ours(objective, features, bits, seed, device)
    codes = FaissCodes(name, features.query.shape[1], bits // 8, "cosine", seed)
    codes.train(unit(features.train))
    return _Unit(codes)


@dataclass(frozen=True)
class _Unit:
    """A method that is given rows and queries of length 1, so that it ranks by cosine."""

    codes: FaissCodes

    def add(self, x: Floats) -> None:
        self.codes.add(unit(x))

    def search(self, query: Floats, k: int) -> dict[str, Ids]:
        return self.codes.search(unit(query), k)


def blocks(rows: Iterator[Floats], sizes: Sequence[int]) -> Iterator[tuple[Floats, int | None]]:
    """Rows in blocks that end at each of the sizes, with the size that is reached."""
    done, wanted = 0, iter(sorted(sizes))
    size = next(wanted, None)
    for block in rows:
        while len(block) and size is not None:
            part = block[: size - done]
            block, done = block[len(part) :], done + len(part)
            yield part, size if done == size else None
            if done == size:
                size = next(wanted, None)


def cached_rows(features: FeatureSet) -> Iterator[Floats]:
    """Features of the images of a set, and then those of their views."""
    yield features.database
    yield features.query
    for strength in ("mild", "paper"):
        if features.has_views(strength):
            yield from (np.asarray(view) for view in features.views(strength))


def made_rows(
    folder: Path, backbone: str, device: str, precision: Any, strength: Augmentation, seed: int
) -> Iterator[Floats]:
    """Features of views of the images of a folder, without end; none is like another one."""
    network = load_backbone(backbone, device=device, precision=precision)
    paths = [file.path for file in list_images([folder])][:MOST_IMAGES]
    pixels = _squares(paths, Decoding(network.preprocessing, 200.0))
    views = DeviceViews(strength, network.preprocessing.size, seed)
    number = 0
    while True:
        for start in range(0, len(pixels), network.batch_size):
            some = pixels[start : start + network.batch_size]
            rows = np.arange(start, start + len(some))
            made = views(torch.from_numpy(some).to(network.device), rows, number)
            yield network(made.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy())
        number += 1


def _squares(paths: Sequence[bytes], decoding: Decoding) -> NDArray[np.uint8]:
    """Pixels (n, S, S, 3) of the images that can be read."""
    decoder = make_decoder(
        Workers.of("threads"), decoding, batch_size=256, ahead=1, n_files=len(paths), device="cpu"
    )
    found = []
    try:
        for start in range(0, len(paths), 256):
            pixels, outcomes = decoder.submit(paths[start : start + 256]).result()
            good = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, ReadImage)]
            found.append(pixels[0][good])
    finally:
        decoder.close()
    if not sum(map(len, found)):
        raise InvalidInputError("images has no image that can be read; expected some.")
    return np.concatenate(found)


def base_rows(features: FeatureSet, n: int) -> NDArray[np.int64]:
    """At most n rows of the database, as many of each class as there are in proportion."""
    labels = features.protocol.database.labels
    if n >= len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    return np.sort(order[np.linspace(0, len(order) - 1, n).astype(np.int64)])


def measures(found: Ids, truth: Ids, relevant: NDArray[np.bool_]) -> dict[str, float]:
    """Quality of results (nq, DEPTH), of which ``relevant`` says which belong to the query."""
    return {
        **{f"map{k}": mean_average_precision(relevant, k) for k in DEPTHS},
        "precision10": precision_at(relevant, 10),
        "recall10": recall_at(found[:, :10], truth[:, :10]),
    }


def run(
    features: FeatureSet,
    distractors: Iterator[Floats],
    args: argparse.Namespace,
    log: RunLog,
) -> None:
    """Measure every method at every size; the exact one comes first, as it is the truth."""
    names = ["exact raw", *(name for name in args.methods if name != "exact raw")]
    methods = {
        name: make_method(name, features, args.bits, args.seed, args.device) for name in names
    }
    base = base_rows(features, min(args.sizes))

    def rows() -> Iterator[Floats]:
        yield features.database[base]
        yield from distractors

    def relevant(found: Ids) -> NDArray[np.bool_]:
        is_base = (found >= 0) & (found < len(base))
        known = base[np.where(is_base, found, 0)]
        return is_base & features.protocol.relevant(slice(None), known)

    for block, size in blocks(rows(), args.sizes):
        for start in range(0, len(block), BLOCK):
            for method in methods.values():
                method.add(np.asarray(block[start : start + BLOCK], np.float32))
        if size is None:
            continue
        truth: Ids | None = None
        for name, method in methods.items():
            (found,) = method.search(features.query, DEPTH).values()
            truth = found if truth is None else truth
            key = Key(features.folder.name, name, args.bits, size, args.seed)
            measured = measures(found, truth, relevant(found))
            print(*key, measured, flush=True)
            log.append(
                {
                    **key._asdict(),
                    **measured,
                    "base": len(base),
                    "queries": len(features.query),
                    "others": [set_name(other, args.backbone) for other in args.others],
                    "views": args.views if args.images is not None else None,
                    "machine": describe_machine(),
                    "device": args.device,
                    "precision": args.precision,
                    "commit": current_commit(),
                }
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="cifar10-ii", help="the set that queries are of")
    parser.add_argument("--data", type=Path, help="folder of its images, unless cached")
    parser.add_argument("--queries", type=count, default=1000, help="number of queries")
    parser.add_argument("--others", nargs="*", default=[], help="cached sets whose images distract")
    parser.add_argument("--images", type=Path, help="folder of images whose views distract")
    parser.add_argument(
        "--views",
        choices=VIEWS,
        default="all",
        help="changes of these views; 'crops' takes a CPU a third of the time",
    )
    parser.add_argument("--sizes", nargs="+", type=count, default=SIZES, help="rows")
    parser.add_argument("--bits", type=count, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--backbone", default="lite0")
    parser.add_argument("--device", default="cpu", help="of the networks and the index")
    parser.add_argument("--precision", default="float32", help="of the network that makes views")
    add_cache_options(parser)
    args = parser.parse_args(argv)
    features = open_set(args.dataset, args.data, args.features, args.backbone, queries=args.queries)
    log = RunLog(features.folder / RUNS, Key._fields)

    def distractors() -> Iterator[Floats]:
        for other in args.others:
            opened = partial(open_set, backbone=args.backbone)
            yield from cached_rows(opened(other, None, args.features))
        if args.images is not None:
            strength = VIEWS[args.views]
            yield from made_rows(
                args.images, args.backbone, args.device, args.precision, strength, args.seed
            )

    run(features, distractors(), args, log)
    published = RunLog(args.out / PUBLISHED, Key._fields)
    published.update(log.runs.values())
    print(write_degrade_page(args.out))


if __name__ == "__main__":
    main()
