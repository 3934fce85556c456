"""`hyperpq train`: a codec from vectors of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperpq.cli import common


@click.command("train")
@click.argument("features", type=common.PATH, metavar="FEATURES")
@click.option(
    "--views",
    type=common.PATH,
    metavar="VIEWS.npy",
    help="Features of augmented views of the same items, shape (V, n, d).",
)
@common.index_option
@common.training_options
@common.device_option
@click.option(
    "--checkpoint",
    type=common.PATH,
    help="File written after each epoch; an interrupted training goes on from it.",
)
@common.quiet_option
def command(
    features: Path,
    views: Path | None,
    index_path: Path,
    device: str,
    checkpoint: Path | None,
    quiet: bool,
    bits: int | None,
    **options: Any,
) -> None:
    """Train a codec on all vectors of a file and write an empty index.

    FEATURES is a file as `hyperpq import` takes it. Fill the index with `hyperpq add` or
    `HiHPQIndex.add`.
    """
    from hyperpq.images.build.options import M_of_bits
    from hyperpq.index.hihpq_index import HiHPQIndex
    from hyperpq.io.npy_files import load_views
    from hyperpq.io.vector_files import open_vectors

    x = open_vectors(features).read()
    chosen = common.given(**options)
    metric = chosen.pop("metric", "l1")
    index = HiHPQIndex(x.shape[1], M_of_bits(bits or 64), metric=metric, device=device)
    shown = common.progress(quiet)
    index.train(
        x,
        load_views(views) if views else None,
        progress=shown,
        checkpoint=checkpoint,
        resume=checkpoint is not None,
        **chosen,
    )
    index.save(index_path)
    if not quiet:
        common.emit(
            common.facts(
                [
                    ("trained on", f"{len(x):,} vectors of width {index.d}"),
                    ("code", f"{index.M * index.nbits} bits, {index.code_size} bytes a vector"),
                    ("seconds", common.seconds(getattr(shown, "seconds", {}))),
                    ("index", index_path),
                    ("next", f"hyperpq add VECTORS.npy --index {index_path}"),
                ]
            )
        )
