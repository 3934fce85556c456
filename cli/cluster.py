"""`hyperpq cluster`: groups of similar images or vectors, listed or as folders of links."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import index_kind, options, output

_ENDINGS = {".json": "json", ".csv": "csv", ".txt": "table"}


@click.command("cluster")
@options.index_option
@click.option(
    "-n",
    "--groups",
    type=options.Whole(2, 1000),
    metavar="N",
    help="Number of groups. [default: 16, or those of --level]",
)
@click.option(
    "--level",
    type=options.Whole(min=1),
    metavar="L",
    help="The groups of a level of `hyperpq map` instead: 1 has 4, 2 has 16, 3 has 64, 4 has 256.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json", "csv"]),
    help="Format of the groups; json has one object for each group and line. [default: by the "
    "ending of OUT; table without --out]",
)
@options.json_option
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    metavar="OUT",
    help="File to write the groups to, such as groups.csv.",
)
@click.option(
    "--links",
    type=options.PATH,
    metavar="DIR",
    help="Make a folder for each group in DIR, with symbolic links to its images. DIR is empty or "
    "does not exist.",
)
@options.groups_seed_option
@options.quiet_option
def command(
    index_path: Path,
    groups: int | None,
    level: int | None,
    style: str | None,
    as_json: bool,
    out: Path | None,
    links: Path | None,
    seed: int,
    quiet: bool,
) -> None:
    """Put similar images, or vectors, into groups.

    The groups come from the codes alone: no image is encoded. Asking for fewer groups joins some
    of them, and divides none. Images are never moved or deleted.
    """
    if groups is not None and level is not None:
        raise options.both_given("--groups", "--level")
    style = output.format_of_file(options.format_of(style, as_json), out, _ENDINGS)
    if links is not None:
        index_kind.need_images(
            index_path, ", which have no files to link; write OUT.csv with --out"
        )
    from hyperpq.explore import Tree
    from hyperpq.explore.groups import WRITERS, check_folder, link_groups
    from hyperpq.index import HiHPQIndex
    from hyperpq.utils.output_files import check_writable

    if links is not None:
        check_folder(links)
    if out is not None:
        check_writable(out)
    with output.progress(quiet) as progress:
        view = HiHPQIndex.load(index_path, device="cpu", read_only=True).view()
        wanted = (groups or 16,) if level is None else None
        tree = Tree.of(view, wanted, seed=seed, progress=progress)
        count = None if links is None else link_groups(tree, view, level or 1, links)
    # Links are enough, unless groups are asked for as text, too.
    if links is None or style != "table" or out is not None:
        output.emit_to(out, WRITERS[style](tree, view, level or 1))
    if count is not None and not quiet:
        output.note(f"{count:,} links to images in {tree.levels[level or 1]} folders of {links}.")
