"""`hyperpq pull`: copy an index from object storage into a directory."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import options, output


@click.command("pull")
@click.argument("url", type=options.TEXT)
@options.new_index_option
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an index in the directory that has changes which were not pushed, and check all "
    "its files.",
)
@options.quiet_option
def command(url: str, index_path: Path, overwrite: bool, quiet: bool) -> None:
    """Copy the index at a URL into a directory, or bring a copy up to date.

    Only files that the directory does not have are copied, and each is checked. A server that reads
    the directory goes on with the new state.
    """
    from hyperpq.remote import pull

    with output.progress(quiet) as progress:
        changed = pull(url, index_path, overwrite=overwrite, progress=progress)
    if not quiet:
        state = "is what is at the URL now" if changed else "was up to date"
        output.emit_summary([("index", f"{index_path} {state}")])
