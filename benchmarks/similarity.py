"""What similarities say: same class and altered copies by similarity, for indexes of your images.

    python -m benchmarks.similarity INDEX ... [--queries N]

Each index is one that `hyperpq build` made, with kept features, of images whose classes are their
folders. N of its images are queries. For every step of the similarity the table shows how many
images of the index each query has there, how many of them are of its class, and which share of
altered copies lies there: of each query, copies that were compressed, scaled and cropped are
queries too, and their result is the image itself. The tables of `docs/method/similarity.md` are
made by `measure`, from features that were extracted before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.degradations import crop, jpeg
from benchmarks.pages import markdown_table
from hyperpq import HiHPQIndex, ImageIndex
from hyperpq.datasets.decode import open_image
from hyperpq.errors import InvalidInputError
from hyperpq.images.extract import ReadOptions, extract_features
from hyperpq.index.refine import Refine

EDGES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
"""Where the steps of the similarity begin; copies have 100."""
# Queries whose similarities to all images are in memory at once.
_BATCH = 20
Floats = NDArray[np.float32]


def halved(image: Image.Image) -> Image.Image:
    """Scale down to half of each side."""
    size = (max(1, image.width // 2), max(1, image.height // 2))
    return image.resize(size, Image.Resampling.BICUBIC)


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 75": lambda image: jpeg(image, 75),
    "JPEG 40": lambda image: jpeg(image, 40),
    "half the size": halved,
    "middle 95 %": lambda image: crop(image, 0.95),
    "middle 85 %": lambda image: crop(image, 0.85),
}


@dataclass(frozen=True)
class Steps:
    """What was counted for one index, each of shape (steps,).

    Attributes
    ----------
    images : ndarray
        Images of the index that a query has in the step, on average.
    same : ndarray
        Share of them that have the class of the query; NaN if there are none.
    altered : ndarray
        Share of the altered copies that have the similarity to their image.
    spread : ndarray, shape (steps, 2)
        ``same`` of the class with the fewest and of the class with the most, of those with at least
        200 images in the step.
    """

    images: NDArray[np.float64]
    same: NDArray[np.float64]
    altered: NDArray[np.float64]
    spread: NDArray[np.float64]


def measure(
    index: HiHPQIndex,
    rows: NDArray[np.int64],
    queries: Floats,
    altered: Mapping[str, Floats],
    labels: NDArray[np.int64],
    refine: Refine = "auto",
) -> Steps:
    """Count by steps of the similarity.

    Parameters
    ----------
    index : HiHPQIndex
        The index, whose ids are 0 to n - 1.
    rows : ndarray, shape (nq,)
        Ids of the queries.
    queries : ndarray, shape (nq, d)
        Their features.
    altered : mapping of str to ndarray, each shape (nq, d)
        Features of their altered copies.
    labels : ndarray, shape (n,)
        Class of each image.
    refine : int or "auto", optional
        See `HiHPQIndex.search`; as for queries by images unless given.
    """
    n, classes = len(labels), int(labels.max()) + 1
    found, same = np.zeros((2, len(EDGES), classes))
    copies = np.zeros(len(EDGES))
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        _, I, S = index.search_similar(  # noqa: E741
            queries[start : start + _BATCH], n, refine=refine
        )
        step, others = _steps(S), some[:, None] != I
        for own, ids, steps, other in zip(labels[some], I, step, others, strict=True):
            found[:, own] += np.bincount(steps[other], minlength=len(EDGES))
            right = other & (labels[ids] == own)
            same[:, own] += np.bincount(steps[right], minlength=len(EDGES))
        for features in altered.values():
            _, I, S = index.search_similar(  # noqa: E741
                features[start : start + _BATCH], n, refine=refine
            )
            copies += np.bincount(_steps(S[some[:, None] == I]), minlength=len(EDGES))
    with np.errstate(invalid="ignore"):
        by_class = np.where(found >= 200, same / found, np.nan)
        return Steps(
            found.sum(1) / len(rows),
            same.sum(1) / found.sum(1),
            copies / (len(rows) * len(altered)),
            np.stack([_extreme(by_class, np.min), _extreme(by_class, np.max)], 1),
        )


def _steps(S: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.searchsorted(EDGES, S, side="right") - 1


def _extreme(by_class: NDArray[np.float64], of: Callable[..., np.float64]) -> NDArray[np.float64]:
    known = [row[~np.isnan(row)] for row in by_class]
    return np.array([of(row) if len(row) else np.nan for row in known])


def table(found: Mapping[str, Steps]) -> str:
    """A Markdown table: images, same class and altered copies of each index, by steps."""
    lines = [["similarity", *(f"{name}: images, same class, copies" for name in found)]]
    for number, low in reversed(list(enumerate(EDGES))):
        high = EDGES[number + 1] if number + 1 < len(EDGES) else None
        line = [f"{low} to {high}" if high else f"{low} and 100"]
        for steps in found.values():
            images, share = steps.images[number], steps.same[number]
            class_share = "–" if np.isnan(share) else f"{share:.0%}"
            line.append(f"{images:.3g}, {class_share}, {steps.altered[number]:.0%}")
        lines.append(line)
    return markdown_table(lines)


def of_images(path: Path, n_queries: int) -> Steps:
    """`measure` for an index of images, whose classes are their folders."""
    images = ImageIndex.open(path)
    if not images.index.has_features:
        raise InvalidInputError(f"{path} keeps no features; expected an index that does.")
    ids = images.index.ids
    if not np.array_equal(ids, np.arange(len(ids))):
        raise InvalidInputError(f"{path} was changed; expected ids from 0 on, as a build gives.")
    paths = images.index.paths_of(ids)
    labels = np.unique([file.rpartition(b"/")[0] for file in paths], return_inverse=True)[1]
    rows = np.random.default_rng(0).choice(len(ids), min(n_queries, len(ids)), replace=False)
    rows.sort()
    originals = [open_image(paths[row]) for row in rows]

    def features(make: Callable[[Image.Image], Image.Image]) -> Floats:
        made = extract_features(list(map(make, originals)), images.backbone, ReadOptions())
        return made.plain

    altered = {name: features(make) for name, make in ALTERATIONS.items()}
    return measure(images.index, rows, images.index.features_of(rows), altered, labels)


def main(argv: list[str] | None = None) -> None:
    """Print the table of the indexes that are named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.similarity", description=__doc__)
    parser.add_argument("index", type=Path, nargs="+", help="index of images")
    parser.add_argument("--queries", type=int, default=400, metavar="N", help="queries (400)")
    args = parser.parse_args(argv)
    print(table({path.name: of_images(path, args.queries) for path in args.index}))


if __name__ == "__main__":
    main()
