"""`hyperpq remove`: remove images or vectors from an index."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import conditions, index_kind, options, output


@click.command("remove")
@click.argument("folders", nargs=-1, type=options.SOURCE, metavar="[DIR]...")
@options.changed_index_option
@click.option(
    "--where",
    type=options.TEXT,
    metavar="CONDITION",
    help="Remove what fulfils a condition, such as \"mtime < '2020-01-01'\", instead of folders; "
    "see docs/how-to/filters.md.",
)
@options.quiet_option
def command(
    folders: tuple[Path | str, ...], index_path: Path, where: str | None, quiet: bool
) -> None:
    """Remove images or vectors from an index.

    DIR is a folder, which need not exist any more, or an image; the same as `hyperpq forget DIR`.
    No file but those of the index is touched. A later build of the same folder adds its images
    again.
    """
    conditions.check_quoted(where, folders)
    if bool(folders) == (where is not None):
        raise click.UsageError("expected either folders DIR or --where CONDITION.")
    if where is None:
        index_kind.need_images(index_path, index_kind.NO_PATHS_TO_REMOVE)
    elif not quiet:
        output.warn_of_values(index_path, where)
    again: output.Facts = []
    if where is None or index_kind.is_of_images(index_path):
        from hyperpq.images import ImageIndex

        images = ImageIndex.open(index_path, device="cpu")
        report, index = images.forget(folders or None, where=where), images.index
        removed, again = report.removed, output.added_again(report)
    else:
        from hyperpq.index import HiHPQIndex

        index = HiHPQIndex.load(index_path, device="cpu")
        removed = index.remove_ids(where=where)
    if not quiet:
        output.emit_summary([("removed", f"{removed:,}"), ("left", f"{index.ntotal:,}"), *again])
