"""`hyperpq query`: find the most similar images of an index."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hyperpq.cli import formats, options, output


@click.command("query")
@click.argument("images", nargs=-1, required=True, metavar="IMG...")
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Number of results for each query.",
)
@options.index_option
@click.option(
    "--format",
    "style",
    type=click.Choice(sorted(formats.WRITERS)),
    default="table",
    show_default=True,
    help="Format of the results.",
)
@click.option(
    "--where",
    metavar="CONDITION",
    help="Search only images that fulfil a condition, such as "
    "\"folder == 'cats' and width >= 512\". Other attributes are height, size, mtime, path and id; "
    "see docs/how-to/filters.md.",
)
@click.option("--exclude-self", is_flag=True, help="Exclude the query image itself.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    show_default="one per core",
    help="Number of threads of the search.",
)
@options.backbone_option
@options.device_option
@options.workers_option
@options.quiet_option
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

    IMG is an image, a folder of images, @FILE for a file with one name per line, or - for names on
    stdin.
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
        progress=output.progress(quiet, bars=len(paths) >= 10),
    )
    output.emit(formats.WRITERS[style](answers))
    failed = [answer for answer in answers if answer.error]
    for answer in failed:
        output.warn(answer.query, answer.error or "")
    if failed:
        raise click.exceptions.Exit(1)
