"""`hyperpq verify`: check all files of an index."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import options, output
from hyperpq.cli.text import escaped


@click.command("verify")
@options.index_option
@options.quiet_option
def command(index_path: Path, quiet: bool) -> None:
    """Check all files of an index.

    Damaged files are listed, and the exit code is 1 if there are any. Files that do not belong to
    the index are listed too, as they can be deleted, but they are no damage.
    """
    from hyperpq.store import verify_directory

    problems = verify_directory(index_path)
    for problem in problems:
        output.emit(escaped(f"{problem.kind}  {problem.file}: {problem.what}") + "\n")
    if any(problem.kind == "damage" for problem in problems):
        raise click.exceptions.Exit(1)
    if not quiet:
        output.emit(escaped(f"{index_path}: all files are as they were written.") + "\n")
