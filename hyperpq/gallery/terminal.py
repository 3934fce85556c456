"""`print_preview`: queries and their results as images in a terminal.

The images of a row are one image for the terminal, whatever the way is in which it shows images:
the graphics of Kitty, Sixel (iTerm2, WezTerm, foot, Konsole and others), or two pixels a character.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from hyperpq.errors import InvalidInputError
from hyperpq.gallery.sections import Section, Shown, distance_text, similarity_text
from hyperpq.gallery.thumbnails import SmallImages, Unreadable, enlarged
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.utils.imports import need
from hyperpq.utils.shown_names import escaped
from hyperpq.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

WAYS = {"auto": "Image", "kitty": "TGPImage", "sixel": "SixelImage", "blocks": "HalfcellImage"}
"""Names of ways to show images, and their classes in textual_image."""
VARIABLE = "HYPERPQ_PREVIEW"
"""The variable that chooses one of them."""

# Columns of a terminal for each image, the last of which is empty, and pixels of a column before
# they are scaled to the terminal.
_COLUMNS, _PIXELS = 20, 12
_SIDE = (_COLUMNS - 1) * _PIXELS


def check_terminal() -> None:
    """Check that images can be shown, before the work whose result they are.

    Raises
    ------
    InvalidInputError
        If stdout is no terminal, or the variable ``HYPERPQ_PREVIEW`` is no way to show images.
    MissingDependencyError
        If the package for it is not installed.
    """
    if not sys.stdout.isatty():
        raise InvalidInputError(
            "stdout is no terminal, which a preview needs; write a page with --html or one image "
            "with --contact-sheet instead."
        )
    _renderer()


def print_preview(
    sections: Sequence[Section],
    *,
    file: TextIO | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> None:
    """Print results as images with captions, as many beside each other as there is room for.

    Parameters
    ----------
    sections : sequence of Section
        Queries and their results, see `sections_of`.
    file : text file, optional
        The terminal; stdout by default.
    max_megapixels : float
        Larger images are shown as unreadable.

    Raises
    ------
    InvalidInputError
        If the variable ``HYPERPQ_PREVIEW`` is no way to show images.
    MissingDependencyError
        If the package for it is not installed.
    """
    from rich.console import Console

    renderer = _renderer()
    console = Console(file=file or sys.stdout, highlight=False, markup=False, no_color=False)
    with SmallImages(lambda image: enlarged(image, _SIDE), _SIDE, max_megapixels) as images:
        found = images.of(
            s.source for section in sections for s in (*section.query, *section.found)
        )
        for section in sections:
            console.print(f"{escaped(section.title)}: {section.summary}", style="bold")
            asked = [("query" + f" {s.signed_weight}".rstrip(), s) for s in section.query]
            results = [
                (f"{r.rank}  {similarity_text(r)}  {distance_text(r)}".replace("    ", "  "), s)
                for r, s in zip(section.results, section.found, strict=True)
            ]
            per_row = max(1, (console.width + 1) // _COLUMNS)
            for group in (asked, results):
                for start in range(0, len(group), per_row):
                    row = group[start : start + per_row]
                    _print_row(console, renderer, row, [next(found) for _ in row])
            console.print()


def _print_row(
    console: Console,
    renderer: Any,
    row: Sequence[tuple[str, Shown]],
    images: Sequence[Image.Image | Unreadable],
) -> None:
    """Images beside each other, and two lines of captions."""
    from PIL import Image
    from rich.cells import set_cell_size

    columns = min(_COLUMNS * len(row) - 1, console.width)
    strip = Image.new("RGBA", (columns * _PIXELS, _SIDE))
    for number, image in enumerate(images):
        if not isinstance(image, Unreadable):
            left = number * _COLUMNS * _PIXELS + (_SIDE - image.width) // 2
            strip.paste(image, (left, (_SIDE - image.height) // 2))
    if not all(isinstance(image, Unreadable) for image in images):
        console.print(renderer(strip, width=columns, height="auto"), end="")
    measures, names = [], []
    for (text, shown), image in zip(row, images, strict=True):
        name = image.reason if isinstance(image, Unreadable) else shown.label
        measures.append(set_cell_size(text, _COLUMNS - 1))
        names.append(set_cell_size(escaped(name), _COLUMNS - 1))
    console.print(" ".join(measures), no_wrap=True, crop=True)
    console.print(" ".join(names), style="dim", no_wrap=True, crop=True)


def _renderer() -> Any:
    """The class that shows images, of the terminal or as the variable says."""
    way = os.environ.get(VARIABLE) or "auto"
    if way not in WAYS:
        hint = did_you_mean(way, WAYS)
        raise InvalidInputError(
            f"the variable {VARIABLE} is {way!r}; expected {', '.join(WAYS)}{hint}"
        )
    # The package asks the terminal when it is imported, and reads the answer from stdin.
    stdin = sys.__stdin__
    if way != "auto" or (stdin is not None and not stdin.isatty()):
        sys.__stdin__ = None  # type: ignore[misc]
    try:
        module = need("textual_image.renderable", "preview", "images in a terminal")
    finally:
        sys.__stdin__ = stdin  # type: ignore[misc]
    name = WAYS[way]
    if way == "auto" and module.Image is module.UnicodeImage:
        name = WAYS["blocks"]
    return getattr(module, name)
