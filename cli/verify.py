"""`hyperpq verify`: every checksum of an index."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import common


@click.command("verify")
@common.index_option
@common.quiet_option
def command(index_path: Path, quiet: bool) -> None:
    """Check every file of an index and name what is wrong.

    Exit code 1 if something is damaged. Files that the index doesn't name are listed, as they may
    be removed, but are no damage.
    """
    from hyperpq.store import verify_directory

    problems = verify_directory(index_path)
    damaged = [problem for problem in problems if problem.kind == "damage"]
    for problem in problems:
        common.emit(f"{problem.kind}  {problem.file}: {problem.what}\n")
    if damaged:
        raise click.exceptions.Exit(1)
    if not quiet:
        common.emit(f"{index_path}: all files are as they were written.\n")
