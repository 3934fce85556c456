"""Colours and drawing of every figure in the documentation: one colour a method, in all of them.

Figures are as narrow as a column of text, and their panels stand one below the other, so that they
can be read on a telephone, too. A method keeps its colour and marker from figure to figure.
hyperpq is red wherever it is shown; its variants (instruction sets, curvatures) are shades of red.
Exact search and other references that no codes can pass are dark grey, and dashed or dotted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.pages import import_pyplot
from hyperpq.errors import InvalidInputError

# Inches; a figure of this width is 550 px wide on a page.
WIDTH, PANEL_HEIGHT = 5.7, 2.7
OURS, REFERENCE, WITHOUT = "#d1242f", "#333333", "#8a8d91"
# From the lightest to the darkest: code lengths, where bars of one method stand side by side.
SHADES = ("#f3a9ad", "#df5c65", "#8e1220")


class Style(NamedTuple):
    """How a method looks in every figure.

    Attributes
    ----------
    colour, marker, dash : str
        As matplotlib takes them. Without a marker the method is a line at one height.
    """

    colour: str
    marker: str = "o"
    dash: str = "-"


STYLES: dict[str, Style] = {
    "hyperpq default": Style(OURS),
    # Refined codes are the same codes, searched in another way.
    "hyperpq default, refined": Style(OURS, "o", "--"),
    "hyperpq balanced": Style("#8e1220", "x"),
    "hyperpq balanced, refined": Style("#8e1220", "x", "--"),
    "hyperpq fidelity": Style("#ee8a8f", "+"),
    "hyperpq fidelity, corrected": Style("#ee8a8f", "+", "--"),
    "hyperpq paper": Style("#e69f00", "s"),
    # Exact search.
    "exact raw": Style(REFERENCE, "", ":"),
    "exact normalized": Style(REFERENCE, "", "--"),
    # Baselines.
    "pq": Style("#0072b2", "D"),
    "pca_pq": Style("#5aa9d6", "d"),
    "opq": Style("#009e73", "^"),
    "rq": Style("#7b3fa0", "v"),
    "lsq": Style("#cc79a7", "P"),
    "prq": Style("#b39ddb", "<"),
    "plsq": Style("#e7a6c8", ">"),
    "itq": Style("#5f7a1f", "X"),
    "itq_adc": Style("#9ab83a", "*"),
    "rabitq": Style("#8c564b", "h"),
    "tangent_pq": Style("#c49c94", "p"),
    "tangent_opq": Style("#a98274", "H"),
    # Of the ScaNN library, in the page of recall.
    "scann": Style("#2c3f8f", "X"),
    "scann_dot": Style("#6f86d6", "*"),
    # Baselines that learn.
    "cibhash": Style("#17becf", "1"),
    "bihalf": Style("#bcbd22", "2"),
    "sdc": Style("#1b4f72", "3"),
    "crovca": Style("#d35400", "4"),
    "mecoq": Style("#145a32", "8"),
    # The scan: instruction sets of hyperpq, indexes of faiss, and loading every byte.
    "avx512vbmi": Style(OURS),
    "avx512bw": Style("#df5c65", "s"),
    "avx2": Style("#ea8f95", "^"),
    "neon": Style("#ea8f95", "P"),
    "portable": Style("#f3bfc2", "v"),
    "IndexPQ": Style("#0072b2", "D"),
    "IndexPQFastScan": Style("#2c3f8f", "X"),
    "IndexIVFPQFastScan": Style("#6f86d6", "*"),
    "every byte once": Style(REFERENCE, ".", ":"),
    # Cells: searches of some of the codes, and of all.
    "hyperpq": Style(OURS),
    "IVFPQ": Style("#0072b2", "D"),
    "IVFPQFastScan": Style("#6f86d6", "*"),
    "exhaustive scan": Style(REFERENCE, "", "--"),
    # Spaces of the tree.
    "hyperbolic, c learned": Style(OURS),
    "hyperbolic, c = 1": Style("#df5c65", "s"),
    "hyperbolic, c = 0.1": Style("#f0a5aa", "^"),
    "Euclidean": Style("#00798c", "D"),
    "spherical, c = 0.1": Style("#b8860b", "v"),
    # An index that grows.
    "relearned": Style(OURS),
    "not relearned": Style(WITHOUT, "s"),
    "built anew": Style(REFERENCE, "", "--"),
}


def style_of(name: str) -> Style:
    """The style of a method.

    Raises
    ------
    InvalidInputError
        If there is none, so that nobody draws a method in the colour of another one.
    """
    if name not in STYLES:
        raise InvalidInputError(
            f"{name!r} has no colour; expected one of {', '.join(STYLES)}; "
            "add it to benchmarks/palette.py."
        )
    return STYLES[name]


def new_figure(panels: int = 1, height: float = PANEL_HEIGHT) -> tuple[Any, list[Any]]:
    """Create a figure of panels one below the other.

    Parameters
    ----------
    panels : int
        Number of panels.
    height : float
        Inches of each panel.

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : list of matplotlib.axes.Axes
    """
    plt = import_pyplot()
    figure, axes = plt.subplots(
        panels, 1, figsize=(WIDTH, height * panels + 0.7), layout="constrained", squeeze=False
    )
    for axis in axes[:, 0]:
        _prepare(axis)
    return figure, list(axes[:, 0])


def new_grid(panels: int, height: float = PANEL_HEIGHT) -> tuple[Any, list[Any], Any]:
    """Create a figure of small panels, two in a row, with a corner for the names of the lines.

    Parameters
    ----------
    panels : int
        Number of panels.
    height : float
        Inches of each panel.

    Returns
    -------
    figure : matplotlib.figure.Figure
    axes : list of matplotlib.axes.Axes
    corner : matplotlib.axes.Axes
        After the last panel, see `name_lines`.
    """
    plt = import_pyplot()
    rows = panels // 2 + 1
    figure, axes = plt.subplots(
        rows, 2, figsize=(WIDTH, height * rows), layout="constrained", squeeze=False
    )
    found = list(axes.ravel())
    for axis in found[:panels]:
        _prepare(axis)
    for axis in found[panels:]:
        axis.set_axis_off()
    return figure, found[:panels], found[panels]


def _prepare(axis: Any) -> None:
    axis.grid(axis="y", color="#ddd")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def draw_line(
    axis: Any,
    name: str,
    x: Sequence[float],
    y: ArrayLike,
    spread: ArrayLike | None = None,
    label: str | None = None,
) -> None:
    """Draw the line of a method, with error bars where there is a spread.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
    name : str
        Key of `STYLES`.
    x, y : sequence of n numbers
    spread : sequence of n numbers, optional
        Half lengths of the error bars, such as standard deviations over seeds; NaN for none.
    label : str, optional
        Name in the legend; ``name`` unless given.
    """
    style = style_of(name)
    is_ours = style.colour == OURS
    axis.errorbar(
        x,
        np.asarray(y, float),
        None if spread is None else np.nan_to_num(np.asarray(spread, float)),
        label=label or name,
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        linewidth=2.4 if is_ours else 1.5,
        markersize=6,
        capsize=3,
        zorder=3 if is_ours else 2,
    )


def draw_level(axis: Any, name: str, y: float, label: str | None = None) -> None:
    """Draw a method that has one value for every x as a horizontal line."""
    style = style_of(name)
    axis.axhline(y, label=label or name, color=style.colour, linestyle=style.dash, linewidth=1.3)


def add_legend(figure: Any, axes: Sequence[Any], columns: int = 3) -> None:
    """Name every line of the panels once, above them."""
    found = _lines(axes)
    figure.legend(
        found.values(), found.keys(), loc="outside upper left", ncols=columns, frameon=False
    )


def name_lines(corner: Any, axes: Sequence[Any]) -> None:
    """Name every line of the panels once, in the corner of a grid."""
    found = _lines(axes)
    corner.legend(found.values(), found.keys(), loc="center left", frameon=False, handlelength=3.5)


def _lines(axes: Sequence[Any]) -> dict[str, Any]:
    """The lines of the panels by their names, levels last."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    levels = {label for label in found if label in STYLES and not STYLES[label].marker}
    return dict(sorted(found.items(), key=lambda item: item[0] in levels))


def save(figure: Any, file: Path) -> None:
    """Save a figure as SVG and close it; the same figure gives the same file."""
    plt = import_pyplot()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
