"""`hyperpq draw`: a small set of images to try things on."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import common


@click.command("draw")
@click.argument("folder", type=common.PATH, metavar="DIR")
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=360, show_default=True, help="Images."
)
@click.option(
    "--size", type=click.IntRange(16, 1024), default=96, show_default=True, help="Pixels a side."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another set."
)
def command(folder: Path, count: int, size: int, seed: int) -> None:
    """Draw a set of images in folders kingdom/family/species, to try hyperpq on."""
    from hyperpq.datasets.drawn import draw_dataset, species

    draw_dataset(folder, count, size=size, seed=seed)
    common.emit(f"{count} images of {len(species())} species in {folder}\n")
