"""`hyperpq add`: more pictures, or vectors, for an index."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import common


@click.command("add")
@click.argument("inputs", nargs=-1, required=True, type=common.PATH, metavar="DIR...")
@common.index_option
@common.backbone_option
@common.device_option
@common.workers_option
@common.exclude_option
@common.hidden_option
@common.quiet_option
def command(
    inputs: tuple[Path, ...],
    index_path: Path,
    backbone: str | None,
    device: str,
    workers: int,
    exclude: tuple[str, ...],
    include_hidden: bool,
    quiet: bool,
) -> None:
    """Add the pictures below DIR to an index; nothing is forgotten.

    For an index of vectors (`hyperpq train`) give .npy files of shape (n, d).
    """
    if all(path.suffix == ".npy" for path in inputs):
        from hyperpq.index import HiHPQIndex
        from hyperpq.vectors import load_vectors

        index = HiHPQIndex.load(index_path, device=device)
        before = index.ntotal
        for path in inputs:
            index.add(load_vectors(path, index.d))
        lines: list[tuple[str, object]] = [
            ("added", f"{index.ntotal - before:,}"),
            ("vectors", f"{index.ntotal:,}"),
        ]
    else:
        from hyperpq.build import update_index

        images, report = update_index(
            inputs,
            index_path,
            forget=False,
            device=device,
            backbone=backbone,
            workers=workers,
            progress=common.progress(quiet),
            **common.given(exclude=exclude, include_hidden=include_hidden),
        )
        lines = [
            ("added", f"{report.added:,}"),
            ("pictures", f"{len(images):,}"),
            ("skipped", common.skipped_summary(report.skipped, index_path)),
            ("seconds", common.seconds(report.seconds)),
        ]
    if not quiet:
        common.emit(common.facts(lines))
