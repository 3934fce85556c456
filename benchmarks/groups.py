"""Do groups agree with classes? The groups of `hyperpq cluster` and baselines, for your images.

    python -m benchmarks.groups INDEX ... [--groups N ...]

Each index is one that `hyperpq build` made, with kept features, of images whose classes are their
folders. The classes are used for the figures alone. The groups of `Tree`, which sees the codes, are
compared with k-means (faiss, mean of 5 seeds) and Ward (scipy) on the features themselves: share of
images in a group whose most frequent class is theirs (purity), adjusted Rand index, and normalized
mutual information.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from benchmarks.pages import markdown_table
from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError
from hyperpq.explore import Tree
from hyperpq.quantizers.kmeans import kmeans

_SEEDS = 5
# Ward of scipy compares all pairs: 3 GB for so many images.
_MAX_WARD = 20_000
Labels = NDArray[np.int64]


def agreement(groups: Labels, classes: Labels) -> tuple[float, float, float]:
    """Purity, adjusted Rand index and normalized mutual information."""
    table = np.zeros((groups.max() + 1, classes.max() + 1), np.int64)
    np.add.at(table, (groups, classes), 1)
    return (
        float(table.max(1).sum() / len(classes)),
        float(adjusted_rand_score(classes, groups)),
        float(normalized_mutual_info_score(classes, groups)),
    )


def measure(path: Path, counts: list[int]) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    """Method, number of groups, and agreement with the folders."""
    view = HiHPQIndex.load(path, device="cpu").view()
    if not view.has_features:
        raise InvalidInputError(f"{path} keeps no features; expected an index that does.")
    ids = view.ids
    folders = [file.rpartition(b"/")[0] for file in view.paths_of(ids)]
    classes = np.unique(folders, return_inverse=True)[1]
    x = view.features_of(ids)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    tree = Tree.of(view, sorted(counts))
    ward = linkage(x, "ward") if len(x) <= _MAX_WARD else None
    for level, count in enumerate(sorted(counts), 1):
        groups = np.empty(len(ids), np.int64)
        for number, cluster in enumerate(tree.at_level(level)):
            groups[np.searchsorted(ids, tree.ids_of(cluster.number))] = number
        yield "hyperpq cluster (codes)", count, agreement(groups, classes)
        runs = [agreement(kmeans(x, count, seed=s)[1], classes) for s in range(_SEEDS)]
        yield "k-means (features)", count, tuple(np.mean(runs, 0).tolist())
        if ward is not None:
            cut = fcluster(ward, count, "maxclust").astype(np.int64) - 1
            yield "Ward (features)", count, agreement(cut, classes)


def main(argv: list[str] | None = None) -> None:
    """Print a table for each index that is named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.groups", description=__doc__)
    parser.add_argument("index", type=Path, nargs="+", help="index of images")
    parser.add_argument(
        "--groups", type=int, nargs="+", default=[16, 64], metavar="N", help="numbers (16 64)"
    )
    args = parser.parse_args(argv)
    for path in args.index:
        lines = [[path.name, "groups", "purity", "adjusted Rand index", "mutual information"]]
        for method, count, found in measure(path, args.groups):
            lines.append([method, str(count), *(f"{value:.3f}" for value in found)])
        print(markdown_table(lines))


if __name__ == "__main__":
    main()
