"""`hyperpq compact`: fewer, larger files without removed rows."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import common


@click.command("compact")
@common.index_option
@common.quiet_option
def command(index_path: Path, quiet: bool) -> None:
    """Join the small shards of an index and drop removed rows.

    Answers stay as they are; whoever reads the index meanwhile isn't disturbed.
    """
    from hyperpq.store import IndexStore

    store = IndexStore.open(index_path)
    shards, removed = len(store.segments), store.n_deleted
    store.compact()
    if not quiet:
        common.emit(
            common.facts(
                [
                    ("shards", f"{len(store.segments):,} (before: {shards:,})"),
                    ("removed rows dropped", f"{removed:,}"),
                    ("rows", f"{store.ntotal:,}"),
                ]
            )
        )
