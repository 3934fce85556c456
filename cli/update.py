"""`hyperpq update`: bring an index of images up to date with all folders that it records."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import index_kind, learning_options, options, output, ray_cluster


@click.command("update")
@options.changed_index_option
@learning_options.relearn_option
@options.backbone_option
@options.device_option
@options.workers_option
@ray_cluster.ray_option
@options.quiet_option
def command(
    index_path: Path,
    relearn: bool | None,
    backbone: str | None,
    device: str,
    workers: int | str,
    address: str | None,
    quiet: bool,
) -> None:
    """Bring an index up to date with all its folders.

    The folders are those that `hyperpq build` and `hyperpq add` were given, each with the patterns
    of --exclude that it was given with. New and changed images are added, and images that no longer
    exist are removed. Images that were moved or renamed are recognised and not encoded again. A
    folder that is gone keeps its images, as its disk may not be mounted: `hyperpq forget` removes
    them.
    """
    index_kind.need_images(
        index_path, ", which has no folders to update; `hyperpq add FILE` adds vectors to it"
    )
    from hyperpq.images.build import update_index

    with (
        output.progress(quiet) as progress,
        ray_cluster.workers_at(address, workers, device) as found,
    ):
        images, report = update_index(
            None,
            index_path,
            backbone=backbone,
            device=device,
            workers=found,
            progress=progress,
            **learning_options.relearning(relearn),
        )
    if not quiet:
        output.emit_summary(
            [
                ("images", f"{len(images):,}"),
                *output.changes(report, images, index_path),
                ("seconds", output.seconds(report.seconds)),
                ("index", index_path),
            ]
        )
