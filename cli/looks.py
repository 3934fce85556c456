"""Results as images: options of `hyperpq query` for a page, a sheet and the terminal."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hyperpq.cli import options, output

if TYPE_CHECKING:
    from hyperpq.gallery import Section

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--html",
        type=options.PATH,
        metavar="OUT",
        help="Write a page with the images that were found, such as results.html: one file that "
        "any browser shows.",
    ),
    click.option(
        "--contact-sheet",
        type=options.PATH,
        metavar="OUT",
        help="Write the query and the images that were found as one image, OUT.png or OUT.jpg.",
    ),
    click.option(
        "--preview",
        is_flag=True,
        help="Show the images in the terminal before the results: by the graphics of Kitty, by "
        "Sixel, or as coloured characters. It needs the extra preview.",
    ),
    click.option("--open", "open_page", is_flag=True, help="Open the page of --html in a browser."),
    click.option(
        "--thumbnail-size",
        type=options.Whole(16, 2048),
        metavar="PIXELS",
        help="Longer side of each image of --html or --contact-sheet. [default: 256 and 192]",
    ),
)


def options_of_looks(command: F) -> F:
    """Add the options of this module to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Looks:
    """What is asked for.

    Attributes
    ----------
    html : Path, optional
        The page to write.
    contact_sheet : Path, optional
        The image to write.
    preview : bool
        Whether to show images in the terminal.
    open_page : bool
        Whether a browser shows it.
    thumbnail_size : int, optional
        Size of the images of both.
    """

    html: Path | None = None
    contact_sheet: Path | None = None
    preview: bool = False
    open_page: bool = False
    thumbnail_size: int | None = None

    def __post_init__(self) -> None:
        if self.open_page and self.html is None:
            raise click.UsageError("--open is given without --html; name the page with --html.")
        if self.thumbnail_size is not None and not self.files:
            raise click.UsageError(
                "--thumbnail-size is given without --html or --contact-sheet, which it is for."
            )

    @property
    def files(self) -> list[Path]:
        """The files that are written."""
        return [path for path in (self.html, self.contact_sheet) if path is not None]

    @property
    def given(self) -> str:
        """The first of the options that are given."""
        names = {"--html": self.html, "--contact-sheet": self.contact_sheet}
        return next((name for name, path in names.items() if path is not None), "--preview")

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return self.preview or bool(self.files)

    def check(self) -> None:
        """Raise an error if a file cannot be written, or the terminal cannot show images."""
        from hyperpq.utils.output_files import check_writable

        for path in self.files:
            check_writable(path)
        if self.contact_sheet is not None:
            from hyperpq.gallery.contact_sheet import format_of

            format_of(self.contact_sheet)
        if self.preview:
            from hyperpq.gallery.terminal import check_terminal

            check_terminal()

    def show(
        self, sections: Sequence[Section], facts: Sequence[tuple[str, str]], index_path: Path
    ) -> None:
        """Write the files, and show what is to be shown."""
        from hyperpq.gallery import Caption, contact_sheet, print_preview, thumbnails, write_page

        caption, limit = Caption.of(sections, facts), max_megapixels(index_path)
        if self.preview:
            print_preview(sections, max_megapixels=limit)
        if self.html is not None:
            size = self.thumbnail_size or thumbnails.DEFAULT_SIZE
            write_page(self.html, sections, caption, thumbnail_size=size, max_megapixels=limit)
            if self.open_page:
                open_in_browser(self.html)
        if self.contact_sheet is not None:
            contact_sheet.write_contact_sheet(
                self.contact_sheet,
                sections,
                caption,
                thumbnail_size=self.thumbnail_size or contact_sheet.DEFAULT_SIZE,
                max_megapixels=limit,
            )


def open_in_browser(page: Path | str) -> None:
    """Show a page, a file or an address, in the browser of the user."""
    place = page if isinstance(page, str) else os.path.abspath(page)
    address = place if isinstance(page, str) else Path(place).as_uri()
    if click.launch(place) and not webbrowser.open(address):
        output.note(f"no browser was found to open {page}.")


def max_megapixels(index_path: Path) -> float:
    """The largest image that is shown: as large as one that the index may have."""
    from hyperpq.images.metadata import MAX_MEGAPIXELS, ImageMetadata
    from hyperpq.store import IndexStore

    stored = IndexStore.open(index_path).settings.get("metadata")
    metadata = ImageMetadata.from_index(stored if isinstance(stored, dict) else {})
    return MAX_MEGAPIXELS if metadata is None else metadata.max_megapixels
