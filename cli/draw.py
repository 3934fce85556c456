"""`hyperpq draw`: draw a synthetic set of images."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import options, output, streams
from hyperpq.cli.text import escaped


@click.command("draw")
@click.argument("folder", type=options.PATH, metavar="DIR")
@click.option(
    "-n",
    "count",
    type=options.Whole(min=1),
    default=360,
    show_default=True,
    help="Number of images.",
)
@click.option(
    "--size",
    type=options.Whole(16, 1024),
    default=96,
    show_default=True,
    help="Width and height of an image in pixels.",
)
@click.option(
    "--seed",
    type=options.Whole(min=0),
    default=0,
    show_default=True,
    help="Seed of all random choices.",
)
@options.quiet_option
def command(folder: Path, count: int, size: int, seed: int, quiet: bool) -> None:
    """Draw a synthetic set of images.

    The set lets you try hyperpq without images of your own. The images are written to the folders
    DIR/kingdom/family/species. DIR is new or empty, or has a smaller set of the same size and seed,
    which is completed; no file is replaced.
    """
    from hyperpq.datasets.drawn import draw_dataset, species

    draw_dataset(folder, count, size=size, seed=seed)
    kinds = min(count, len(species()))
    if not quiet and not streams.stdout_is_missing():
        output.emit(escaped(f"{count} images of {kinds} species in {folder}") + "\n")
