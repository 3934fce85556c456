"""`Layout`: a map of a tree, in which each cluster is a rectangle and each row a cell.

The parts of a cluster fill its rectangle in proportion to their rows, as a squarified treemap
(Bruls, Huizing and van Wijk 2000), and the rows of a finest cluster fill a grid in the order of the
tree, as in PhotoMesa (Bederson 2001). So an image never covers another, and zooming in leads down
the tree. What is exact is which rows are together, and how many they are. Distances on the map mean
nothing beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hyperpq.explore.tree import Tree

# Frame around the parts of a cluster, as a share of the shorter side.
_FRAME = 0.012

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where clusters and rows are in the unit square; y points down.

    Attributes
    ----------
    boxes : ndarray, shape (clusters, 4), float64
        Left, top, width and height of each cluster, by the numbers of `Tree.clusters`.
    grids : ndarray, shape (clusters, 2), int64
        Columns and lines of the grid in which a finest cluster has its rows; 0 for other clusters.
    """

    boxes: NDArray[np.float64]
    grids: NDArray[np.int64]

    @classmethod
    def of(cls, tree: Tree) -> Layout:
        """The map of a tree; the same tree gives the same map."""
        boxes = np.zeros((len(tree.clusters), 4))
        grids = np.zeros((len(tree.clusters), 2), np.int64)
        boxes[0] = 0, 0, 1, 1
        # Parents come before their parts.
        for cluster in tree.clusters:
            box = _inside(boxes[cluster.number])
            if cluster.children:
                sizes = [tree.clusters[child].size for child in cluster.children]
                boxes[list(cluster.children)] = squarified(sizes, box)
            elif cluster.size:
                grids[cluster.number] = grid(cluster.size, box[2], box[3])
        return cls(boxes, grids)

    def cells(self, tree: Tree) -> NDArray[np.float32]:
        """The cell of each row.

        Returns
        -------
        ndarray, shape (n, 4), float32
            Left, top, width and height, in the order of ``tree.ids``. Lines of a grid run to the
            right and to the left in turn, so that rows that follow each other are neighbours.
        """
        out = np.empty((len(tree.ids), 4), np.float32)
        for cluster in tree.clusters:
            columns, lines = self.grids[cluster.number].tolist()
            if not columns:
                continue
            left, top, width, height = _inside(self.boxes[cluster.number])
            line, column = np.divmod(np.arange(cluster.size), columns)
            column = np.where(line % 2, columns - 1 - column, column)
            cell = out[cluster.start : cluster.stop]
            cell[:, 0] = left + column * (width / columns)
            cell[:, 1] = top + line * (height / lines)
            cell[:, 2:] = width / columns, height / lines
        return out

    def to_json(self) -> dict[str, Any]:
        """The map as JSON types: boxes and grids by the numbers of clusters, and the frame.

        The rows of a finest cluster fill its box without the frame, which is that share of the
        shorter side, as `cells` says.
        """
        return {
            "boxes": [[round(v, 7) for v in box] for box in self.boxes.tolist()],
            "grids": self.grids.tolist(),
            "frame": _FRAME,
        }


def squarified(sizes: Sequence[int], box: Box) -> NDArray[np.float64]:
    """Rectangles of some sizes that fill a box and are as square as the method makes them.

    Parameters
    ----------
    sizes : sequence of int
        Sizes above 0.
    box : tuple of float
        Left, top, width and height.

    Returns
    -------
    ndarray, shape (len(sizes), 4), float64
        A rectangle for each size, with areas in proportion; the largest is at the left top.
    """
    out = np.empty((len(sizes), 4))
    order = np.argsort(-np.asarray(sizes), kind="stable").tolist()
    left, top, width, height = box
    scale = width * height / sum(sizes)
    while order:
        short, row, area = min(width, height), 0, 0.0
        # A row along the shorter side takes rectangles as long as its worst one gets better.
        worst = np.inf
        for count, index in enumerate(order, 1):
            total = area + sizes[index] * scale
            first, last = sizes[order[0]] * scale, sizes[index] * scale
            shape = max(short**2 * first / total**2, total**2 / (short**2 * last))
            if shape > worst:
                break
            row, area, worst = count, total, shape
        depth, along = area / short, 0.0
        for index in order[:row]:
            length = sizes[index] * scale / depth
            if width >= height:
                out[index] = left, top + along, depth, length
            else:
                out[index] = left + along, top, length, depth
            along += length
        if width >= height:
            left, width = left + depth, width - depth
        else:
            top, height = top + depth, height - depth
        order = order[row:]
    return out


def grid(n: int, width: float, height: float) -> tuple[int, int]:
    """Columns and lines for n cells in a rectangle whose shorter cell side is the longest."""
    near = max(1, round((n * width / height) ** 0.5)) if height else 1
    best, side = (1, n), -1.0
    for columns in range(max(1, near - 2), min(n, near + 2) + 1):
        lines = -(-n // columns)
        own = min(width / columns, height / lines)
        if own > side:
            best, side = (columns, lines), own
    return best


def _inside(box: NDArray[np.float64]) -> Box:
    """A box without its frame."""
    left, top, width, height = box.tolist()
    frame = _FRAME * min(width, height)
    return left + frame, top + frame, width - 2 * frame, height - 2 * frame
