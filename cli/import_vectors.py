"""`hyperpq import`: add the vectors of files to an index, which is trained first if it is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperpq.cli import index_kind, learning_options, options, output


@click.command("import")
@click.argument("inputs", nargs=-1, required=True, type=options.PATH, metavar="FILE...")
@options.new_index_option
@options.dataset_option
@click.option(
    "--ids",
    type=options.PATH,
    metavar="IDS.npy",
    help="File with the ids of all vectors, in the order of the files. By default ids continue "
    "from the highest id of the index.",
)
@click.option(
    "--if-new",
    is_flag=True,
    help="Leave out files whose vectors were imported before. Otherwise such a file is an error, "
    "unless --ids names its ids.",
)
@click.option("--again", is_flag=True, help="Add vectors once more that were imported before.")
@learning_options.training_options()
@options.device_option
@options.quiet_option
def command(
    inputs: tuple[Path, ...],
    index_path: Path,
    dataset: str | None,
    ids: Path | None,
    if_new: bool,
    again: bool,
    device: str,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Add the vectors in files to an index.

    FILE is a .npy, .npz, .fvecs, .bvecs, .ivecs, HDF5 (.h5, .hdf5) or Parquet (.parquet) file. If
    there is no index, a new one is trained on up to 25,000 of the vectors first.
    """
    if if_new and again:
        raise options.both_given("--if-new", "--again")
    from hyperpq.io.import_vectors import import_vectors
    from hyperpq.io.vector_files import is_vector_file

    if all(map(is_vector_file, inputs)):
        index_kind.need_vectors(index_path, inputs)
    with output.progress(quiet) as progress:
        done = import_vectors(
            inputs,
            index_path,
            dataset=dataset,
            ids=ids,
            repeated="skip" if if_new else "add" if again else "refuse",
            device=device,
            progress=progress,
            **options.given(**chosen),
        )
    if quiet:
        return
    index = done.index
    facts: output.Facts = [
        ("added", f"{done.added:,}"),
        ("vectors", f"{index.ntotal:,}"),
        ("code", f"{index.M * index.nbits} bits, {index.code_size} bytes per vector"),
        ("seconds", output.seconds(progress.seconds)),
        ("index", index_path),
    ]
    if done.skipped:
        facts.insert(1, ("imported before", f"{done.skipped:,}"))
    if done.trained_on:
        facts.insert(0, ("trained on", f"{done.trained_on:,} vectors of width {index.d}"))
    output.emit_summary(facts)
