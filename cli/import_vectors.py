"""`hyperpq import`: files of vectors into an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperpq.cli import common


@click.command("import")
@click.argument("inputs", nargs=-1, required=True, type=common.PATH, metavar="FILE...")
@common.index_option
@click.option(
    "--dataset",
    metavar="NAME",
    help="Of the HDF5 dataset or the Parquet column, if a file has several.",
)
@click.option(
    "--ids",
    type=common.PATH,
    metavar="IDS.npy",
    help="Ids of all vectors, in the order of the files; counted on unless given.",
)
@common.training_options
@common.device_option
@common.quiet_option
def command(
    inputs: tuple[Path, ...],
    index_path: Path,
    dataset: str | None,
    ids: Path | None,
    device: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Add the vectors of files to an index; where there is none, learn one from a sample first.

    FILE is .npy, .fvecs, .bvecs or .ivecs, HDF5 (.h5, .hdf5) or Parquet (.parquet). A new index
    learns from up to 25,000 of the vectors.
    """
    from hyperpq.io.import_vectors import import_vectors

    shown = common.progress(quiet)
    done = import_vectors(
        inputs,
        index_path,
        dataset=dataset,
        ids=ids,
        device=device,
        progress=shown,
        **common.given(**options),
    )
    if quiet:
        return
    index = done.index
    lines: list[tuple[str, object]] = [
        ("added", f"{done.added:,}"),
        ("vectors", f"{index.ntotal:,}"),
        ("code", f"{index.M * index.nbits} bits, {index.code_size} bytes a vector"),
        ("seconds", common.seconds(getattr(shown, "seconds", {}))),
        ("index", index_path),
    ]
    if done.trained_on:
        lines.insert(0, ("trained on", f"{done.trained_on:,} vectors of width {index.d}"))
    common.emit(common.facts(lines))
