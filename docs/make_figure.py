"""Make `docs/img/results.png`, the figure of the README, with hyperpq itself.

    python docs/make_figure.py [--work DIR]

The script draws 1,080 images of 36 species (30 of each), builds an index of 64-bit codes from them
without labels, and searches it with the first image of every ninth species. The choice of the
queries doesn't look at the results. Each query image is left out of its own results. Building takes
about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hyperpq import ImageIndex, build_index
from hyperpq.datasets.drawn import draw_dataset, species

OUT = Path(__file__).parent / "img" / "results.png"
IMAGES, BITS, K, EVERY = 1080, 64, 5, 9
SIDE, MARGIN, GAP, CAPTION, HEADER = 104, 16, 10, 18, 30
QUERY_GAP = 26
BACKGROUND, INK, PALE = "#ffffff", "#222222", "#666666"
SAME, RELATED, OTHER = "#2e8b57", "#e0a100", "#c0392b"
FRAME = 4


def main() -> None:
    """Draw, build, search and compose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="keep images and index here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        images = work / "images"
        if not images.exists():
            draw_dataset(images, IMAGES)
        index, _ = build_index([images], work / "index", bits=BITS, resume=True)
        compose(index, images).save(OUT, optimize=True)


def compose(index: ImageIndex, images: Path) -> Image.Image:
    """A row for each query: the query, then its nearest images from left to right."""
    queries = [images / name / f"{Path(name).name}-000.jpg" for name in species()[::EVERY]]
    answers = index.query(queries, k=K, exclude_self=True)
    step = SIDE + GAP
    width = 2 * MARGIN + (K + 1) * step - GAP + QUERY_GAP
    row_height = SIDE + CAPTION + GAP
    sheet = Image.new("RGB", (width, HEADER + MARGIN + len(queries) * row_height), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    pen.text((MARGIN, MARGIN // 2), "query", INK, font)
    pen.text(
        (MARGIN + step + QUERY_GAP, MARGIN // 2),
        f"the nearest of {len(index) - 1:,} other images",
        INK,
        font,
    )
    for row, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        top = HEADER + row * row_height
        _place(sheet, query, MARGIN, top, None, font)
        for result in answer.results:
            path = Path(os.fsdecode(result.path))
            left = MARGIN + QUERY_GAP + result.rank * step
            _place(sheet, path, left, top, _frame(query, path), font)
    # A palette keeps the file small; the grain of the drawn images doesn't compress.
    return sheet.quantize(256, dither=Image.Dither.NONE)


def _frame(query: Path, found: Path) -> str:
    """Green for an image of the same species, yellow for the same family, red for another."""
    if found.parent == query.parent:
        return SAME
    return RELATED if found.parent.parent == query.parent.parent else OTHER


def _place(
    sheet: Image.Image,
    path: Path,
    left: int,
    top: int,
    frame: str | None,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    with Image.open(path) as image:
        inner = SIDE - 2 * FRAME
        sheet.paste(image.convert("RGB").resize((inner, inner)), (left + FRAME, top + FRAME))
    pen = ImageDraw.Draw(sheet)
    if frame:
        pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=frame, width=FRAME)
    pen.text((left + FRAME, top + SIDE + 1), path.parent.name, PALE, font)


if __name__ == "__main__":
    main()
