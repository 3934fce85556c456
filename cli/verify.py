"""`hyperpq verify`: check all files of an index."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from hyperpq.cli import options, output
from hyperpq.cli.text import escaped, for_json


@click.command("verify")
@options.verified_index_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON array with an object for each problem."
)
@options.quiet_option
def command(index_path: Path, as_json: bool, quiet: bool) -> None:
    """Check all files of an index.

    Damaged files are listed, and the exit code is 1 if there are any. Files that do not belong to
    the index are listed too, as they can be deleted, but they are no damage. Of an index at a URL
    the copy in the cache is checked, once damaged files of it were copied again.
    """
    from hyperpq.store import verify_directory

    problems = verify_directory(index_path)
    if as_json:
        output.emit(json.dumps(for_json(list(map(asdict, problems))), indent=1) + "\n")
    else:
        for problem in problems:
            output.emit(escaped(f"{problem.kind}  {problem.file}: {problem.what}") + "\n")
    if any(problem.kind == "damage" for problem in problems):
        raise click.exceptions.Exit(1)
    if not quiet and not as_json:
        output.emit(escaped(f"{index_path}: all files are as they were written.") + "\n")
