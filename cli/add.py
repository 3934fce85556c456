"""`hyperpq add`: add images or vectors to an index."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import index_kind, learning_options, options, output


@click.command("add")
@click.argument("inputs", nargs=-1, required=True, type=options.SOURCE, metavar="DIR...")
@options.changed_index_option
@options.dataset_option
@options.backbone_option
@learning_options.relearn_option
@options.device_option
@options.workers_option
@options.exclude_option
@options.hidden_option
@options.quiet_option
def command(
    inputs: tuple[Path | str, ...],
    index_path: Path,
    dataset: str | None,
    backbone: str | None,
    relearn: bool | None,
    device: str,
    workers: int | str,
    exclude: tuple[str, ...],
    include_hidden: bool,
    quiet: bool,
) -> None:
    """Add images or vectors to an index.

    DIR is a folder of images. No image is removed from the index. For an index of vectors, give
    files of vectors instead of folders, as for `hyperpq import`.
    """
    from hyperpq.io.vector_files import is_vector_file

    facts: output.Facts
    if all(map(is_vector_file, inputs)):
        from hyperpq.io.import_vectors import import_vectors

        options.refuse("files of vectors", "images", relearn=relearn)
        index_kind.need_vectors(index_path, inputs)
        with output.progress(quiet) as progress:
            done = import_vectors(
                inputs,
                index_path,
                create=False,
                dataset=dataset,
                device=device,
                progress=progress,
            )
        facts = [("added", f"{done.added:,}"), ("vectors", f"{done.index.ntotal:,}")]
    else:
        from hyperpq.images.build import update_index

        options.refuse("images", "files of vectors", dataset=dataset)
        index_kind.need_images_for(index_path, inputs)
        roots = index_kind.image_roots(inputs, index_path, quiet=quiet)
        with output.progress(quiet) as progress:
            images, report = update_index(
                roots,
                index_path,
                remove_missing=False,
                backbone=backbone,
                device=device,
                workers=workers,
                progress=progress,
                **learning_options.relearning(relearn),
                **options.given(exclude=exclude, include_hidden=include_hidden),
            )
        facts = [
            *output.changes(report, images, index_path),
            ("images", f"{len(images):,}"),
            ("seconds", output.seconds(report.seconds)),
        ]
    if not quiet:
        output.emit_summary(facts)
