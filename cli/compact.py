"""`hyperpq compact`: join small shards and drop removed rows."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import options, output


@click.command("compact")
@options.index_option
@options.quiet_option
def command(index_path: Path, quiet: bool) -> None:
    """Join small shards and drop removed rows of an index.

    Search results stay the same, and programs that read the index meanwhile are not disturbed.
    """
    from hyperpq.store import IndexStore

    store = IndexStore.open(index_path)
    shards, deleted = len(store.segments), store.n_deleted
    store.compact()
    if not quiet:
        output.emit_summary(
            [
                ("shards", f"{len(store.segments):,} (before: {shards:,})"),
                ("removed rows dropped", f"{deleted:,}"),
                ("rows", f"{store.ntotal:,}"),
            ]
        )
