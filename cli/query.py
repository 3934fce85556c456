"""`hyperpq query`: find the most similar images of an index."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperpq.cli import formats, options, output, streams

if TYPE_CHECKING:
    from hyperpq.images import ImageIndex
    from hyperpq.images.results import Answer


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
    type=options.TEXT,
    metavar="CONDITION",
    help="Search only images that fulfil a condition, such as "
    "\"folder == 'cats' and width >= 512\". Other attributes are height, size, mtime, path and id; "
    "see docs/how-to/filters.md.",
)
@options.null_option
@click.option("--exclude-self", is_flag=True, help="Exclude the query image itself.")
@options.threads_option
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
    null: bool,
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

    if "-" in images:
        streams.check_stdin()
    output.show_warnings(quiet)
    named = query_paths(images, sys.stdin.buffer, null=null)
    index = ImageIndex.open(index_path, device=device, backbone=backbone)
    answers = index.query(
        named.paths,
        k,
        where=where,
        exclude_self=exclude_self,
        threads=threads,
        workers=workers,
        progress=output.progress(quiet, bars=len(named.paths) >= 10),
    )
    output.emit(formats.WRITERS[style](answers, null))
    if not quiet and not any(answer.results for answer in answers):
        _explain(index, answers, where, exclude_self)
    failed = [(answer.query, answer.error) for answer in answers if answer.error]
    failed += named.skipped.items()
    for path, reason in failed:
        output.warn(path, reason)
    if failed:
        raise click.exceptions.Exit(1)


def _explain(
    index: ImageIndex, answers: Sequence[Answer], where: str | None, exclude_self: bool
) -> None:
    """Say why nothing was found, unless no query could be read."""
    if all(answer.error for answer in answers):
        return
    other = " but the query" if exclude_self else ""
    if not len(index):
        output.note(f"nothing was found: {index.index.path} has no images.")
    elif where is not None:
        output.note(f"nothing was found: no image{other} fulfils the condition {where}")
    else:
        output.note(f"nothing was found: the index has no image{other}.")
