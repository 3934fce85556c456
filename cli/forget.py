"""`hyperpq forget`: remove images from an index that are gone, or not wanted any more."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import index_kind, options, output


@click.command("forget")
@click.argument("paths", nargs=-1, type=options.SOURCE, metavar="[PATH]...")
@click.option(
    "--missing",
    is_flag=True,
    help="Remove only images whose files are gone, of all folders or of those at PATH. Images that "
    "may be on a disk that is not mounted are kept.",
)
@options.changed_index_option
@options.quiet_option
def command(paths: tuple[Path | str, ...], missing: bool, index_path: Path, quiet: bool) -> None:
    """Remove images from an index and forget their folders.

    PATH is a folder or an image, which need not exist any more. No file but those of the index is
    touched. Images of a part of a folder that the index records are added again by the next update,
    unless they are excluded or moved away; the summary says so.
    """
    if not paths and not missing:
        raise click.UsageError("expected folders or images PATH, or --missing.")
    index_kind.need_images(index_path, index_kind.NO_PATHS_TO_REMOVE)
    from hyperpq.images import ImageIndex

    with output.progress(quiet) as progress:
        images = ImageIndex.open(index_path, device="cpu")
        report = images.forget(paths or None, missing=missing, progress=progress)
    if not quiet:
        facts: output.Facts = [("removed", f"{report.removed:,}")]
        if report.kept:
            facts.append(("kept", f"{report.kept:,} that may be on a disk that is not mounted"))
        facts += [("left", f"{len(images):,}"), *output.added_again(report)]
        output.emit_summary([*facts, ("index", index_path)])
