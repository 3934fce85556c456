"""`hyperpq compact`: join small shards, drop removed rows and make new cells."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from hyperpq.cli import options, output


@click.command("compact")
@options.changed_index_option
@click.option(
    "--cells",
    type=options.NEW_CELLS,
    metavar="auto|N",
    help="Group the codes by N new cells, of which hyperpq query --nprobe searches some; 0 removes "
    "them, and auto is about one for each thousand rows. By default cells stay as they are.",
)
@options.quiet_option
def command(index_path: Path, cells: int | Literal["auto"] | None, quiet: bool) -> None:
    """Join small shards and drop removed rows of an index.

    Search results stay the same, and programs that read the index meanwhile are not disturbed. Of
    an index with cells, the recall of searches of some of them is measured again where it has
    changed.
    """
    from hyperpq.index.hihpq_index import HiHPQIndex

    index = HiHPQIndex.load(index_path, device="cpu")
    before = index.stats()
    if cells is not None:
        index.make_cells(cells)
    index.compact()
    if not quiet:
        after = index.stats()
        facts: output.Facts = [
            ("shards", f"{after.segments:,} (before: {before.segments:,})"),
            ("removed rows dropped", f"{before.deleted_rows:,}"),
            ("rows", f"{after.rows:,}"),
        ]
        if cells is not None:
            facts.append(("cells", f"{index.nlist:,}"))
        output.emit_summary(facts)
