"""`hyperpq push`: publish an index in object storage."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import options, output


@click.command("push")
@click.argument("url", type=options.TEXT)
@options.changed_index_option
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an index at URL that this one was not made from, or that has changed since, and "
    "copy all files again.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="Remove files at URL that only former states of the index needed, once they are 7 days "
    "old.",
)
@options.quiet_option
def command(url: str, index_path: Path, overwrite: bool, prune: bool, quiet: bool) -> None:
    """Publish the index in object storage, at a URL such as s3://bucket/index.

    Commands that read an index take the URL as --index. Files that are there already are not
    copied again. Readers see the former state or the new one, whole, and of two writers who publish
    at the same time one gets an error. docs/how-to/storage.md describes it.
    """
    from hyperpq.remote import push

    with output.progress(quiet) as progress:
        done = push(index_path, url, overwrite=overwrite, prune=prune, progress=progress)
    if not quiet:
        facts: output.Facts = [
            ("uploaded", f"{done.uploaded:,} files, {done.uploaded_bytes:,} bytes"),
            ("there before", f"{done.kept:,} files"),
        ]
        if prune:
            facts.append(("removed", f"{done.removed:,} files"))
        output.emit_summary([*facts, ("url", url)])
