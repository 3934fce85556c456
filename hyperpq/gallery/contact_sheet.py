"""`write_contact_sheet`: queries and their results as one image with captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpq.errors import InvalidInputError
from hyperpq.gallery.sections import (
    Caption,
    Section,
    Shown,
    distance_text,
    similarity_text,
)
from hyperpq.gallery.thumbnails import SmallImages, Unreadable, as_thumbnail_size, enlarged
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.utils.output_files import check_writable, written_aside
from hyperpq.utils.shown_names import escaped

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

DEFAULT_SIZE = 192
"""Side of the square of an image on a sheet, in pixels."""
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Formats of sheets by the endings of files."""

# Most images beside each other: with squares of the default size, a sheet is 1,400 pixels wide.
_COLUMNS = 7
# A sheet is in memory while it is drawn; JPEG has no sides of more than 65,500 pixels.
_MAX_PIXELS, _MAX_SIDE = 150_000_000, 65_000
_PAGE, _WELL, _INK, _MUTED, _ACCENT = "#ffffff", "#eeeeeb", "#1b1d22", "#5a5f6b", "#2b5f9e"


def write_contact_sheet(
    path: str | Path,
    sections: Sequence[Section],
    caption: Caption | None = None,
    *,
    thumbnail_size: int = DEFAULT_SIZE,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> None:
    """Write results as one image: each query in a blue frame, and its results with captions.

    The letters of the captions are those of Pillow's own font, which has Latin ones alone.

    Parameters
    ----------
    path : path-like
        The image to write, PNG or JPEG by its ending: completely, or not at all.
    sections : sequence of Section
        Queries and their results, see `sections_of`.
    caption : Caption, optional
        What is written at the top.
    thumbnail_size : int
        Side of the square of each image in pixels, from 16 to 2048.
    max_megapixels : float
        Larger images are shown as unreadable.

    Raises
    ------
    InvalidInputError
        If the path has another ending, is a folder, or is in none; or if there are more images
        than fit on a sheet.
    StoreError
        If the system refuses to write the file.
    """
    path = Path(path)
    kind = format_of(path)
    check_writable(path)
    caption = caption or Caption()
    layout = _Layout.of(sections, caption, as_thumbnail_size(thumbnail_size))
    side = layout.side
    with SmallImages(lambda image: enlarged(image, side), side, max_megapixels) as images:
        sheet = layout.drawn(sections, caption, images)
    with written_aside(path) as aside, open(aside, "xb") as file:
        sheet.save(file, kind, quality=90, optimize=True)


def format_of(path: Path) -> str:
    """The format of a sheet, by the ending of its file.

    Raises
    ------
    InvalidInputError
        If it is another.
    """
    if path.suffix.lower() not in FORMATS:
        raise InvalidInputError(
            f"{path} has none of the endings {', '.join(FORMATS)}; expected the name of an image "
            "to write."
        )
    return FORMATS[path.suffix.lower()]


@dataclass(frozen=True)
class _Layout:
    """Where everything is on a sheet, in pixels.

    Attributes
    ----------
    side : int
        Side of the square of an image.
    columns : int
        Images beside each other.
    height : int
        Height of the sheet.
    """

    side: int
    columns: int
    height: int = 0

    @classmethod
    def of(cls, sections: Sequence[Section], caption: Caption, side: int) -> _Layout:
        most = max((len(s.query) + len(s.results) for s in sections), default=1)
        layout = cls(side, max(3, min(_COLUMNS, most)))
        height = layout.top + sum(map(layout.section_height, sections)) + layout.gap
        if layout.width * height > _MAX_PIXELS or height > _MAX_SIDE:
            raise InvalidInputError(
                f"a sheet of these results has {layout.width} x {height} pixels; expected at most "
                f"{_MAX_PIXELS:,} in all and {_MAX_SIDE:,} from top to bottom; ask for fewer "
                "results or smaller thumbnails, or write a page with --html."
            )
        return cls(side, layout.columns, height)

    @property
    def letter(self) -> int:
        """Height of letters."""
        return max(9, round(self.side / 15))

    @property
    def line(self) -> int:
        """Height of a line."""
        return round(self.letter * 1.4)

    @property
    def gap(self) -> int:
        """Between images."""
        return max(6, self.side // 12)

    @property
    def step(self) -> int:
        """From one image to the next below it."""
        return self.side + 2 * self.line + self.gap

    @property
    def width(self) -> int:
        """Width of the sheet."""
        return self.gap + self.columns * (self.side + self.gap)

    @property
    def top(self) -> int:
        """Where the first section begins."""
        return self.gap + 3 * self.line

    def section_height(self, section: Section) -> int:
        """Height of a section."""
        rows = math.ceil((len(section.query) + len(section.results)) / self.columns)
        return 2 * self.line + rows * self.step + self.gap

    def places(self, n: int, top: int) -> Iterator[tuple[int, int]]:
        """Left and top of n images."""
        for number in range(n):
            row, column = divmod(number, self.columns)
            yield self.gap + column * (self.side + self.gap), top + row * self.step

    def drawn(
        self, sections: Sequence[Section], caption: Caption, images: SmallImages[Image.Image]
    ) -> Image.Image:
        """The sheet."""
        from PIL import Image, ImageDraw, ImageFont

        sheet = Image.new("RGB", (self.width, self.height), _PAGE)
        pen = _Pen(sheet, ImageDraw.Draw(sheet), ImageFont.load_default(self.letter), self)
        large = ImageFont.load_default(round(self.letter * 1.4))
        pen.write(self.gap, self.gap, caption.title, self.width - 2 * self.gap, font=large)
        facts = "   ".join(f"{name}: {value}" for name, value in caption.facts)
        pen.write(
            self.gap, self.gap + 2 * self.line, facts, self.width - 2 * self.gap, colour=_MUTED
        )
        found = images.of(
            s.source for section in sections for s in (*section.query, *section.found)
        )
        top = self.top
        for section in sections:
            width = self.width - 2 * self.gap
            pen.write(self.gap, top + self.line // 2, f"{section.title}: {section.summary}", width)
            query, results = section.query, section.results
            places = self.places(len(query) + len(results), top + 2 * self.line)
            for shown in query:
                place = next(places)
                pen.image(place, next(found), _ACCENT)
                pen.captions(place, f"query {shown.signed_weight}".strip(), shown)
            for result, shown in zip(results, section.found, strict=True):
                place = next(places)
                pen.image(place, next(found), None)
                measures = (similarity_text(result), f"distance {distance_text(result)}")
                pen.captions(place, f"{result.rank}   {'   '.join(filter(None, measures))}", shown)
            top += self.section_height(section)
        return sheet


@dataclass(frozen=True)
class _Pen:
    """Draws on a sheet."""

    sheet: Image.Image
    draw: ImageDraw.ImageDraw
    font: Font
    layout: _Layout

    def image(
        self, place: tuple[int, int], image: Image.Image | Unreadable, frame: str | None
    ) -> None:
        """An image in the middle of its square, or why there is none."""
        (left, top), side = place, self.layout.side
        square = (left, top, left + side - 1, top + side - 1)
        self.draw.rectangle(square, _WELL)
        if isinstance(image, Unreadable):
            self.write(left + 4, top + side // 2, image.reason, side - 8, colour=_MUTED)
        else:
            x, y = left + (side - image.width) // 2, top + (side - image.height) // 2
            self.sheet.paste(image, (x, y))
        if frame:
            self.draw.rectangle(square, outline=frame, width=max(2, side // 48))

    def captions(self, place: tuple[int, int], measures: str, shown: Shown) -> None:
        """The lines below an image."""
        (left, top), layout = place, self.layout
        top += layout.side + layout.line // 5
        self.write(left, top, measures, layout.side)
        folder = shown.folder.rpartition("/")[2]
        name = f"{folder}/{shown.label}" if folder else shown.label
        self.write(left, top + layout.line, name, layout.side, colour=_MUTED, keeps_end=True)

    def write(
        self,
        left: int,
        top: int,
        text: str,
        width: int,
        *,
        font: Font | None = None,
        colour: str = _INK,
        keeps_end: bool = False,
    ) -> None:
        """Text on one line, shortened to a width at its end or its beginning."""
        font, text = font or self.font, escaped(text)
        if font.getlength(text) > width:
            # The longest part that fits, by bisection.
            low, high = 0, len(text)
            while low < high:
                middle = (low + high + 1) // 2
                if font.getlength(_shortened(text, middle, keeps_end)) <= width:
                    low = middle
                else:
                    high = middle - 1
            text = _shortened(text, low, keeps_end)
        self.draw.text((left, top), text, colour, font)


def _shortened(text: str, n: int, keeps_end: bool) -> str:
    """The last or the first n characters."""
    return f"…{text[len(text) - n :]}" if keeps_end else f"{text[:n]}…"
