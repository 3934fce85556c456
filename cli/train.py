"""`hyperpq train`: train a codec on the vectors of a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from hyperpq.cli import learning_options, options, output


@click.command("train")
@click.argument("features", type=options.PATH, metavar="FEATURES")
@click.option(
    "--views",
    type=options.PATH,
    metavar="VIEWS.npy",
    help="File with features of augmented views of the same items, of shape (V, n, d).",
)
@options.new_index_option
@options.dataset_option
@learning_options.training_options()
@options.device_option
@click.option(
    "--checkpoint",
    type=options.PATH,
    help="File that is written after each epoch. If it exists, the training continues from it.",
)
@options.quiet_option
def command(
    features: Path,
    views: Path | None,
    index_path: Path,
    dataset: str | None,
    device: str,
    checkpoint: Path | None,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Train a codec on the vectors in a file.

    The result is an empty index; fill it with `hyperpq add` or with `HiHPQIndex.add`. All vectors
    are used, and FEATURES has one of the formats of `hyperpq import`.
    """
    from hyperpq.io.train_vectors import train_vectors

    with output.progress(quiet) as progress:
        index, n = train_vectors(
            features,
            index_path,
            dataset=dataset,
            views=views,
            checkpoint=checkpoint,
            device=device,
            progress=progress,
            **options.given(**chosen),
        )
    if quiet:
        return
    output.emit_summary(
        [
            ("trained on", f"{n:,} vectors of width {index.d}"),
            ("code", f"{index.M * index.nbits} bits, {index.code_size} bytes per vector"),
            ("seconds", output.seconds(progress.seconds)),
            ("index", index_path),
            ("next", f"hyperpq add VECTORS.npy --index {shlex.quote(str(index_path))}"),
        ]
    )
