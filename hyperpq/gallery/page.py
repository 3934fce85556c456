"""`write_page`: queries and their results as one HTML file, with nothing outside it.

The file is written as thumbnails are made, so that memory holds a few of them, however many there
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from hyperpq._version import __version__
from hyperpq.gallery.markup import Markup, asset, document_head, escape, fact_list, fill
from hyperpq.gallery.sections import Caption, Section, Shown, distance_text, similarity_text
from hyperpq.gallery.thumbnails import DEFAULT_SIZE, SmallImages, Thumbnail, Unreadable
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.images.results import Result
from hyperpq.utils.output_files import check_writable, written_aside

# More queries are listed when the reader asks for them.
_MOST_LISTED = 12
# The width of a tile, as in page.css.
_TILE = 184
_LARGEST_TILE = 384


def write_page(
    path: str | Path,
    sections: Sequence[Section],
    caption: Caption | None = None,
    *,
    thumbnail_size: int = DEFAULT_SIZE,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> None:
    """Write results as a page for a browser, which shows it without a connection.

    Thumbnails are part of the file, so it can be moved and sent. It has the paths of the images,
    and each image leads to its file, where there is one.

    Parameters
    ----------
    path : path-like
        The file to write, such as ``results.html``: completely, or not at all.
    sections : sequence of Section
        Queries and their results, see `sections_of`.
    caption : Caption, optional
        Title of the page, and what is said about the search.
    thumbnail_size : int
        Longer side of the thumbnails in pixels, from 16 to 2048.
    max_megapixels : float
        Larger images are shown as unreadable.

    Raises
    ------
    InvalidInputError
        If the path is a folder, or its folder does not exist.
    StoreError
        If the system refuses to write the file.
    """
    path = Path(path)
    check_writable(path)
    images = SmallImages(Thumbnail.of, thumbnail_size, max_megapixels)
    with images, written_aside(path) as aside, open(aside, "x", encoding="utf-8") as file:
        file.writelines(page(sections, caption or Caption(), images))


def page(
    sections: Sequence[Section], caption: Caption, images: SmallImages[Thumbnail]
) -> Iterator[Markup]:
    """The parts of the page, one after the other."""
    yield _head(sections, caption)
    found = images.of(shown.source for section in sections for shown in _all(section))
    for number, section in enumerate(sections):
        asked = [_asked(shown, next(found)) for shown in section.query]
        yield fill(
            "section",
            number=number,
            images=Markup.join_all(asked),
            title=section.title,
            summary=section.summary,
        )
        for result, shown in zip(section.results, section.found, strict=True):
            yield result_tile(result, shown, next(found))
        yield fill("section_end")
    yield fill("foot", version=__version__, script=Markup(asset("page.js")))


def result_tile(result: Result, shown: Shown, thumbnail: Thumbnail | Unreadable) -> Markup:
    """One result: its image with rank, similarity, distance, name and folder."""
    similarity: str = similarity_text(result)
    if similarity:
        similarity = fill("similarity", similarity=similarity)
    return fill(
        "result",
        image=framed(shown, thumbnail, f"Result {result.rank}: {shown.label}"),
        rank=result.rank,
        similarity=similarity,
        distance=distance_text(result),
        label=shown.label,
        folder=_breakable(shown.folder),
    )


def framed(shown: Shown, thumbnail: Thumbnail | Unreadable, alt: str) -> Markup:
    """A thumbnail, or why there is none; a file that can be opened is linked."""
    if isinstance(thumbnail, Unreadable):
        image = fill("missing", alt=alt, reason=thumbnail.reason)
        return fill("frame", image=image, path=_text(shown.name))
    image = fill(
        "image",
        source=thumbnail.data_uri,
        width=thumbnail.width,
        height=thumbnail.height,
        alt=alt,
    )
    if shown.path is None:
        return fill("frame", image=image, path=_text(shown.name))
    path = f"{_text(shown.name)} ({thumbnail.full_width} × {thumbnail.full_height})"
    return fill("link", image=image, address=f"file://{quote(shown.path)}", path=path)


def _head(sections: Sequence[Section], caption: Caption) -> Markup:
    contents: str = ""
    if len(sections) > 1:
        listed = [
            fill("contents_item", number=number, title=section.title)
            for number, section in enumerate(sections)
        ]
        contents = fill(
            "contents",
            state=Markup(" open" if len(sections) <= _MOST_LISTED else ""),
            count=f"{len(sections):,}",
            items=Markup.join_all(listed),
        )
    header = fill(
        "page_header",
        title=caption.title,
        facts=fact_list(caption.facts),
        contents=contents,
        largest=_LARGEST_TILE,
        usual=_TILE,
    )
    return document_head(
        caption.title,
        header,
        content="results",
        style=asset("page.css"),
        script=asset("page.js"),
    )


def _asked(shown: Shown, thumbnail: Thumbnail | Unreadable) -> Markup:
    weight = shown.signed_weight
    return fill(
        "asked",
        image=framed(shown, thumbnail, f"Query: {shown.label}"),
        weight=fill("weight", weight=weight) if weight else "",
    )


def _all(section: Section) -> Iterable[Shown]:
    yield from section.query
    yield from section.found


def _breakable(folder: str) -> Markup:
    """A folder whose name may be broken after each slash."""
    return Markup(escape(folder).replace("/", "/<wbr>"))


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
