"""`hyperpq map`: a page on which one zooms from groups of images down to each of them."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import index_kind, looks, options, output


@click.command("map")
@options.index_option
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    default="map.html",
    show_default=True,
    metavar="OUT",
    help="The page to write: one file that any browser shows.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--thumbnails",
    type=options.Whole(min=0),
    default=5000,
    show_default=True,
    metavar="N",
    help="Number of images that the page holds, about 3 kB each. Those that stand for a group come "
    "first; others are read from their files when they are large on the screen.",
)
@options.groups_seed_option
@options.quiet_option
def command(
    index_path: Path, out: Path, open_page: bool, thumbnails: int, seed: int, quiet: bool
) -> None:
    """Write a map of all images: groups of similar ones, within larger groups.

    The groups come from the codes alone, so no image is encoded. Each is a rectangle whose area is
    in proportion to its images; zooming in leads to its parts, and down to single images.
    """
    index_kind.need_images(index_path, ", and a map shows images; `hyperpq cluster` groups vectors")
    from hyperpq.explore import Exploration
    from hyperpq.gallery import Caption
    from hyperpq.gallery.map_page import write_map
    from hyperpq.index import HiHPQIndex
    from hyperpq.utils.output_files import check_writable

    check_writable(out)
    with output.progress(quiet) as progress:
        view = HiHPQIndex.load(index_path, device="cpu", read_only=True).view()
        exploration = Exploration(view, seed=seed, progress=progress)
        tree = exploration.tree
        levels = " > ".join(f"{count:,}" for count in tree.levels[1:]) or "none"
        facts = [("index", str(index_path)), ("images", f"{view.ntotal:,}"), ("groups", levels)]
        write_map(
            out,
            exploration,
            Caption("Map of the collection", facts),
            thumbnails=thumbnails,
            max_megapixels=looks.max_megapixels(index_path),
            progress=progress,
        )
    if not quiet:
        output.emit_summary([*facts[1:], ("page", out)], out)
    if open_page:
        looks.open_in_browser(out)
