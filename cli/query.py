"""`hyperpq query`: the most similar images of an index."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hyperpq.cli import common, formats


@click.command("query")
@click.argument("images", nargs=-1, required=True, metavar="IMG...")
@click.option(
    "-k", type=click.IntRange(min=1), default=50, show_default=True, help="Results a query."
)
@common.index_option
@click.option(
    "--format",
    "style",
    type=click.Choice(sorted(formats.WRITERS)),
    default="table",
    show_default=True,
    help="Of the results on stdout.",
)
@click.option(
    "--where",
    metavar="CONDITION",
    help="Search only images that fulfil it, such as \"folder == 'cats' and width >= 512\"; "
    "also height, size, mtime, path and id. See docs/how-to/filters.md.",
)
@click.option("--exclude-self", is_flag=True, help="Leave the query image itself out.")
@click.option(
    "--threads", type=click.IntRange(min=1), show_default="one a core", help="Of the search."
)
@common.backbone_option
@common.device_option
@common.workers_option
@common.quiet_option
def command(
    images: tuple[str, ...],
    k: int,
    index_path: Path,
    style: str,
    where: str | None,
    exclude_self: bool,
    threads: int | None,
    backbone: str | None,
    device: str,
    workers: int,
    quiet: bool,
) -> None:
    """Find the images most similar to each IMG.

    IMG is an image, a folder of images, @FILE with one name a line, or - for names on stdin.
    """
    from hyperpq.images.image_index import ImageIndex
    from hyperpq.images.listing import query_paths

    paths = query_paths(images, sys.stdin.buffer)
    index = ImageIndex.open(index_path, device=device, backbone=backbone)
    answers = index.query(
        paths,
        k,
        where=where,
        exclude_self=exclude_self,
        threads=threads,
        workers=workers,
        progress=common.progress(quiet, bars=len(paths) >= 10),
    )
    common.emit(formats.WRITERS[style](answers))
    bad = [answer for answer in answers if answer.error]
    for answer in bad:
        click.echo(f"hyperpq: {common.name(answer.query)}: {answer.error}", err=True)
    if bad:
        raise click.exceptions.Exit(1)
