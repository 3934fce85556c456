"""`hyperpq export`: write the rows of an index to a file for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import options, output


@click.command("export")
@click.argument("out", type=options.PATH)
@options.index_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["npz", "parquet", "csv", "faiss", "hdf5"]),
    help="Format of the file. [default: by the ending of OUT]",
)
@click.option(
    "--vectors/--no-vectors",
    default=False,
    show_default=True,
    help="Whether to write the decoded vectors beside the codes.",
)
@click.option(
    "--features",
    is_flag=True,
    help="Write the features beside the codes, of an index that keeps them.",
)
@options.quiet_option
def command(
    out: Path, index_path: Path, style: str | None, vectors: bool, features: bool, quiet: bool
) -> None:
    """Write the rows of an index to a file.

    The file OUT, such as images.csv, contains the ids, paths, codes and attributes of all rows;
    with the format faiss it is an index that FAISS reads. docs/how-to/export.md describes the
    files.
    """
    from hyperpq.index.hihpq_index import HiHPQIndex
    from hyperpq.io.export import ENDINGS, export_index

    style = output.format_of_file(style, out, ENDINGS)
    with output.progress(quiet) as progress:
        index = HiHPQIndex.load(index_path, device="cpu")
        written = export_index(
            index, out, style, vectors=vectors, features=features, progress=progress
        )
    if not quiet:
        size = out.stat().st_size
        facts: output.Facts = [("written", f"{written:,} rows"), ("bytes", f"{size:,}")]
        output.emit_summary([*facts, ("file", out)], out)
