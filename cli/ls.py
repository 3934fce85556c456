"""`hyperpq ls`: list what an index contains."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import click

from hyperpq.cli import conditions, index_kind, options, output
from hyperpq.cli.text import for_json

# Rows that are written at once.
_BATCH = 1000


@click.command("ls")
@click.argument("folders", nargs=-1, type=options.SOURCE, metavar="[DIR]...")
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
@options.quiet_option
def command(
    folders: tuple[Path | str, ...],
    index_path: Path,
    where: str | None,
    as_json: bool,
    null: bool,
    quiet: bool,
) -> None:
    """List the images of an index, or the ids of its vectors.

    With DIR, a folder or an image that need not exist any more, only images at or below it are
    listed; the exit code is 1 if there is none at one of them. The command `hyperpq list` is the
    same.
    """
    conditions.check_quoted(where, folders)
    from hyperpq.io.list_rows import list_rows, unlisted

    if folders:
        advice = ", which have no paths; choose by a condition with --where instead of DIR"
        index_kind.need_images(index_path, advice)
    found = False
    rows = list_rows(index_path, folders, where=where)
    while batch := list(islice(rows, _BATCH)):
        found = True
        if as_json:
            lines = [json.dumps(for_json(row.to_dict())) + "\n" for row in batch]
            output.emit("".join(lines))
        else:
            listed = [str(row.id).encode() if row.path is None else row.path for row in batch]
            output.emit(output.names(listed, null=null))
    if not quiet:
        output.warn_of_values(index_path, where)
    empty = unlisted(index_path, folders) if folders else []
    for name in empty:
        output.note(f"no image of {index_path} is at or below {name}.")
    if empty:
        raise click.exceptions.Exit(1)
    if not found and not quiet:
        noun = "image" if index_kind.is_of_images(index_path) else "vector"
        there = " there" if folders else ""
        if where is None:
            output.note(f"{index_path} has no {noun}s.")
        else:
            output.note(conditions.unfulfilled(f"{noun}{there}", where))
