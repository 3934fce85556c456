"""`hyperpq add`: more images, or vectors, for an index."""

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
    """Add the images below DIR to an index; nothing is forgotten.

    For an index of vectors give files of them, as to `hyperpq import`.
    """
    from hyperpq.io.vector_files import is_vector_file

    if all(map(is_vector_file, inputs)):
        from hyperpq.io.import_vectors import import_vectors

        done = import_vectors(
            inputs, index_path, create=False, device=device, progress=common.progress(quiet)
        )
        lines: list[tuple[str, object]] = [
            ("added", f"{done.added:,}"),
            ("vectors", f"{done.index.ntotal:,}"),
        ]
    else:
        from hyperpq.images.build import update_index

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
            ("images", f"{len(images):,}"),
            ("skipped", common.skipped_summary(report.skipped, index_path)),
            ("seconds", common.seconds(report.seconds)),
        ]
    if not quiet:
        common.emit(common.facts(lines))
