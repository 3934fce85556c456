"""`hyperpq search`: find the vectors of an index that are nearest to those in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperpq.cli import options, output

if TYPE_CHECKING:
    from hyperpq.io.search_vectors import FoundVectors

# `io.result_files` has the same names; it is not imported for the help.
FORMATS = ("table", "csv", "ndjson", "npz", "ivecs")


@click.command("search")
@click.argument("inputs", nargs=-1, required=True, type=options.PATH, metavar="FILE...")
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Number of results for each query.",
)
@options.index_option
@options.dataset_option
@click.option(
    "--format",
    "style",
    type=click.Choice(FORMATS),
    help="Format of the results. [default: by the ending of OUT; table without --out]",
)
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    metavar="OUT",
    help="File to write the results to, such as results.npz. The formats npz and ivecs need one.",
)
@click.option(
    "--where",
    type=options.TEXT,
    metavar="CONDITION",
    help="Search only vectors whose attributes fulfil a condition; see docs/how-to/filters.md.",
)
@options.threads_option
@options.device_option
@options.quiet_option
def command(
    inputs: tuple[Path, ...],
    k: int,
    index_path: Path,
    dataset: str | None,
    style: str | None,
    out: Path | None,
    where: str | None,
    threads: int | None,
    device: str,
    quiet: bool,
) -> None:
    """Find the vectors of an index that are nearest to each vector in files.

    FILE is a file of vectors, as for `hyperpq import`. A query is named by its number, counted from
    0 over all files. docs/how-to/export.md describes the files of results.
    """
    from hyperpq.io import result_files
    from hyperpq.io.search_vectors import search_vectors
    from hyperpq.utils.output_files import check_writable

    if style is None and out is not None:
        style = result_files.ENDINGS.get(out.suffix.lower())
        if style is None:
            endings = ", ".join(result_files.ENDINGS)
            raise click.UsageError(
                f"{out} has none of the endings {endings}; choose a format with --format."
            )
    style = style or "table"
    if out is not None:
        check_writable(out)
    elif style not in result_files.TEXTS:
        raise click.UsageError(f"the format {style} is not text; name a file with --out.")
    batches = search_vectors(
        inputs,
        index_path,
        k,
        dataset=dataset,
        where=where,
        threads=threads,
        device=device,
        progress=output.progress(quiet),
    )
    found = _Found()
    if out is None:
        for batch in found.counted(batches):
            output.emit(result_files.TEXTS[style](batch))
    else:
        n = result_files.write_results(found.counted(batches), out, style)
        if not quiet:
            output.emit_summary([("queries", f"{n:,}"), ("file", out)], out)
    if quiet or not found.queries or found.results:
        return
    if where is None:
        output.note(f"nothing was found: {index_path} has no vectors.")
    else:
        output.note(f"nothing was found: no vector of {index_path} fulfils the condition {where}")


class _Found:
    """Counts of queries and of results that have been passed on."""

    def __init__(self) -> None:
        self.queries = self.results = 0

    def counted(self, batches: Iterable[FoundVectors]) -> Iterator[FoundVectors]:
        """Pass batches on."""
        for batch in batches:
            self.queries += len(batch.I)
            self.results += int((batch.I >= 0).sum())
            yield batch
