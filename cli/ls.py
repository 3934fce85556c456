"""`hyperpq ls`: list what an index contains."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import click

from hyperpq.cli import options, output
from hyperpq.cli.text import for_json

# Rows that are written at once.
_BATCH = 1000


@click.command("ls")
@click.argument("folders", nargs=-1, type=options.PATH, metavar="[DIR]...")
@options.index_option
@click.option(
    "--where",
    type=options.TEXT,
    metavar="CONDITION",
    help="List only what fulfils a condition, such as \"folder == 'cats'\"; "
    "see docs/how-to/filters.md.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object for each row, with its id, path and attributes, one per line.",
)
@options.null_option
def command(
    folders: tuple[Path, ...], index_path: Path, where: str | None, as_json: bool, null: bool
) -> None:
    """List the images of an index, or the ids of its vectors.

    With DIR, a folder or an image that need not exist any more, only images at or below it are
    listed. The command `hyperpq list` is the same.
    """
    from hyperpq.io.list_rows import list_rows

    output.warn_of_values(index_path, where)
    rows = list_rows(index_path, folders, where=where)
    while batch := list(islice(rows, _BATCH)):
        if as_json:
            lines = [json.dumps(for_json(row.to_dict())) + "\n" for row in batch]
            output.emit("".join(lines))
        else:
            listed = [str(row.id).encode() if row.path is None else row.path for row in batch]
            output.emit(output.names(listed, null=null))
