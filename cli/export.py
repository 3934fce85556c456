"""`hyperpq export`: what an index holds, for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import common


@click.command("export")
@click.argument("out", type=common.PATH)
@common.index_option
@click.option(
    "--format",
    "style",
    required=True,
    type=click.Choice(["npz", "parquet", "csv", "faiss", "hdf5"]),
    help="Of the file.",
)
@click.option(
    "--vectors/--no-vectors",
    default=False,
    show_default=True,
    help="Whether to write the decoded vectors beside the codes.",
)
@common.quiet_option
def command(out: Path, index_path: Path, style: str, vectors: bool, quiet: bool) -> None:
    """Write ids, paths, codes and attributes of an index to the file OUT.

    For faiss it is an index that faiss reads. Layouts: docs/how-to/export.md.
    """
    from hyperpq.index.hihpq_index import HiHPQIndex
    from hyperpq.io.export import export_index

    index = HiHPQIndex.load(index_path, device="cpu")
    written = export_index(index, out, style, vectors=vectors, progress=common.progress(quiet))
    if not quiet:
        lines = [("written", f"{written:,} rows"), ("bytes", f"{out.stat().st_size:,}")]
        common.emit(common.facts([*lines, ("file", out)]))
