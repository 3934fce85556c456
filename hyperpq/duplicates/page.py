"""`write_comparison`: groups as one HTML file, in which two images can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperpq._version import __version__
from hyperpq.duplicates.finding import Duplicates
from hyperpq.duplicates.groups import Group, Member
from hyperpq.duplicates.listing import amount, facts
from hyperpq.gallery.markup import Markup, asset, document_head, fact_list, fill
from hyperpq.gallery.page import framed
from hyperpq.gallery.sections import Shown
from hyperpq.gallery.thumbnails import SmallImages, Thumbnail, Unreadable
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.utils.output_files import check_writable, written_aside

THUMBNAIL_SIZE = 512
"""Longer side of the images in the page: enough to compare them when their files are gone."""


def write_comparison(
    path: str | Path,
    found: Duplicates,
    *,
    thumbnail_size: int = THUMBNAIL_SIZE,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> None:
    """Write groups as a page for a browser, which shows it without a connection.

    Each group has its images with what is proposed for them, and says which is larger, sharper and
    older. Two of them can be shown side by side with one zoom, and swapped. Small images are part
    of the file; a zoomed image is read from its own file, where the browser can.

    Parameters
    ----------
    path : path-like
        The file to write: completely, or not at all.
    found : Duplicates
        What `find` returned.
    thumbnail_size : int
        Longer side of the images in the page in pixels, from 16 to 2048.
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
        file.writelines(_page(found, images))


def _page(found: Duplicates, images: SmallImages[Thumbnail]) -> Iterator[Markup]:
    """The parts of the page, one after the other."""
    style = asset("page.css") + "\n" + asset("comparison.css")
    script = asset("comparison.js")
    title = "Near-duplicates"
    yield document_head(
        title,
        fill("comparison_header", title=title, facts=fact_list(facts(found))),
        content="groups",
        style=style,
        script=script,
        images="data: file:",
    )
    sources = (m.path for group in found.groups for m in group.members)
    thumbnails = images.of(sources)
    for number, group in enumerate(found.groups, 1):
        yield fill("comparison_group", number=number, level=group.level, summary=_summary(group))
        for member in group.members:
            yield _tile(group, member, next(thumbnails))
        yield fill("section_end")
    yield fill("comparison_foot", version=__version__, script=Markup(script))


def _summary(group: Group) -> str:
    n, gone = len(group.members), group.proposed
    if not gone:
        return f"{n:,} images, all of which are kept"
    size = amount(sum(member.facts.size for member in gone))
    return f"{n:,} images, {len(gone):,} of which can go ({size})"


def _tile(group: Group, member: Member, thumbnail: Thumbnail | Unreadable) -> Markup:
    shown = Shown(member.path, member.path)
    own, all_facts = member.facts, [m.facts for m in group.members]
    role = group.role(member)
    return fill(
        "comparison_tile",
        image=framed(shown, thumbnail, f"{role}: {shown.label}"),
        role=role,
        relation=member.relation,
        label=shown.label,
        folder=shown.folder,
        width=own.width,
        height=own.height,
        amount=amount(own.size),
        larger=_best("largest", own.width * own.height, [f.width * f.height for f in all_facts]),
        sharpness=f"{own.sharpness:.1f}",
        sharper=_best("sharpest", own.sharpness, [f.sharpness for f in all_facts]),
        date=member.date,
        older=_oldest(group, member),
        button="" if member is group.kept else fill("comparison_button", label=shown.label),
    )


def _best(word: str, value: float, values: Sequence[float]) -> str:
    """A word where a value is the largest, and not all are equal."""
    is_best = value == max(values) > min(values)
    return fill("comparison_best", word=word) if is_best else ""


def _oldest(group: Group, member: Member) -> str:
    dates = [m.date for m in group.members]
    is_oldest = member.date == min(dates) < max(dates)
    return fill("comparison_best", word="oldest") if is_oldest else ""
