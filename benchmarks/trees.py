"""Hyperbolic, flat and spherical space on classes that form a true tree.

    python -m benchmarks.trees --data DIR --features CACHE

Where could hyperbolic geometry pay? The classes of the drawn set are the leaves of a tree. The head
is learned on one subspace of few dimensions, with prototypes at the three levels of the tree, in
hyperbolic space (curvature learned or fixed), in flat space and on the sphere. The clip radius is
so large that hardly any vector is shortened. For each space the page ``trees.md`` shows the mAP of
the continuous points by species, family and kingdom, the distances between images by their nearest
common ancestor, and how far from the origin the nodes of each level lie.

Each run is appended to ``CACHE/drawn-lite0/trees.jsonl`` as soon as it is measured. It is not
measured again as long as features, protocol, recipe and code are the same (`provenance`). At the
end, the runs are added to those that are published beside the page (`trees_page`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.class_tree import LEVELS, TreeLabels, labels_of, level_sizes
from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.machine import describe_machine
from benchmarks.options import add_cache_options, add_published_option, add_seed_options
from benchmarks.pages import import_pyplot
from benchmarks.provenance import HYPERPQ_CODE, DataDigests, Digests, current_commit, recipe_fields
from benchmarks.published import check_set, describe_set, publish, take_up_published
from benchmarks.runlog import Run, RunLog
from benchmarks.tasks import run_tasks
from benchmarks.trees_page import DIMENSIONS, FIELDS, RUNS, SPACES, TOP, Space, write_trees_page
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.training.features import tangent_vectors
from hyperpq.training.presets import get_recipe
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec

# On the sphere, points stay on a hemisphere: sqrt(c) times the clip radius is below pi / 2.
MAX_NORM = 4.0


@torch.no_grad()
def describe(codec: HiHPQCodec, features: FeatureSet, labels: TreeLabels) -> dict[str, Any]:
    """Measure the points of a codec.

    Returns
    -------
    dict
        ``map``: by species, family and kingdom. ``ancestor``: mean distance to images whose nearest
        common ancestor is the species, family or kingdom, over that to images of other kingdoms.
        ``depth``: mean distance from the origin of images, species and families, over that of
        kingdoms. ``c``: mean curvature. ``radius``: mean distance of images from the origin.
        ``bend``: that times the root of c.
    """
    quantizer = codec.quantizer
    query, database = (
        quantizer.points(tangent_vectors(codec, x)) for x in (features.query, features.database)
    )
    distances = torch.cat(
        [quantizer.pairwise_distances(rows, database) for rows in query.split(200)]
    )
    found = distances.topk(TOP, 1, largest=False)[1].numpy()
    maps = [
        mean_average_precision(labels.database[found, level] == labels.query[:, None, level], TOP)
        for level in range(LEVELS)
    ]
    # 3 levels in common for the same species, 2 for the same family, 1 for the same kingdom.
    common = (labels.query[:, None] == labels.database[None]).sum(2)
    by_ancestor = [float(distances[torch.from_numpy(common == n)].mean()) for n in (3, 2, 1, 0)]
    v = torch.from_numpy(codec.embed(features.database))
    depth = []
    for level in range(LEVELS):
        nodes = labels.database[:, level]
        means = torch.stack(
            [v[torch.from_numpy(nodes == node)].mean(0) for node in range(int(nodes.max()) + 1)]
        )
        depth.append(float(means.norm(dim=1).mean()))
    radius = float(v.norm(dim=1).mean())
    c = quantizer.c.mean()
    return {
        "map": maps,
        "ancestor": [d / by_ancestor[-1] for d in by_ancestor[:-1]],
        "depth": [radius / depth[-1], *(d / depth[-1] for d in depth[:-1])],
        "c": float(c),
        "radius": radius,
        "bend": float((c**0.5) * radius),
    }


def recipe_of(space: Space, D: int, features: FeatureSet) -> Recipe:
    """The default recipe in one space and subspace, with prototypes at the levels of the tree."""
    return get_recipe(
        "default",
        8,
        width=D,
        subspaces=1,
        geometry=space.geometry,
        curvature=space.curvature,
        train_curvature=space.train_curvature,
        max_norm=MAX_NORM,
        radius=1.0,
        prototype_weight=1.0,
        levels=level_sizes(labels_of(features)),
        holdout_check=False,
        smoothing_weight=0.0,
    )


def measure(features: FeatureSet, task: tuple[Space, int, int]) -> dict[str, Any]:
    """Train and describe a codec of one space, number of dimensions and seed."""
    space, D, seed = task
    recipe = recipe_of(space, D, features)
    codec = train_codec(features.train, features.views("mild"), M=1, recipe=recipe, seed=seed)
    assert isinstance(codec, HiHPQCodec)
    return describe(codec, features, labels_of(features))


class TreeBench:
    """Measures the spaces and writes their runs to the log.

    Parameters
    ----------
    features : FeatureSet
        The drawn set.
    """

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        # The views are extracted before several processes need them.
        features.views("mild")
        self.log = RunLog(features.folder / RUNS, FIELDS)
        self.digests = DataDigests(features)

    def identity(self, space: Space, D: int, seed: int) -> Digests:
        """What a run is measured on and with."""
        recipe = recipe_fields(recipe_of(space, D, self.features))
        return self.digests.of({"recipe": recipe, "seed": seed, "top": TOP}, HYPERPQ_CODE, "mild")

    def is_current(self, run: Run) -> bool:
        """Whether a recorded run is what this benchmark would measure now."""
        space = next((space for space in SPACES if space.name == run["space"]), None)
        if space is None:
            return False
        return not self.identity(space, run["D"], run["seed"]).differences(run)

    def run(self, seeds: int, jobs: int) -> None:
        """Measure what the log does not hold yet."""
        missing = []
        for seed in range(seeds):
            for D in DIMENSIONS:
                for space in SPACES:
                    recorded = self.log.runs.get((space.name, D, seed))
                    if recorded is None or not self.is_current(recorded):
                        missing.append((space, D, seed))
        for (space, D, seed), found in run_tasks(partial(measure, self.features), missing, jobs):
            self.log.append(
                {
                    "space": space.name,
                    "D": D,
                    "seed": seed,
                    **found,
                    "machine": describe_machine(),
                    "commit": current_commit(),
                    "digests": self.identity(space, D, seed)._asdict(),
                }
            )
            values = " ".join(f"{value:.4f}" for value in found["map"])
            print(f"{space.name:<24} D {D:>2}  seed {seed}  mAP {values}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the drawn set, drawn if missing")
    add_cache_options(parser)
    add_seed_options(parser)
    add_published_option(parser)
    args = parser.parse_args(argv)
    try:
        # A missing matplotlib is reported now, not after hours of work.
        import_pyplot()
        features = open_set("drawn", args.data, args.features)
        record = describe_set(features)
        check_set(record, args.out)
        bench = TreeBench(features)
        if args.published:
            take_up_published(bench.log, record.folder, args.out, bench.is_current)
        bench.run(args.seeds, args.jobs)
        publish(record, bench.log, args.out, bench.is_current)
        print(write_trees_page(args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
