"""`hyperpq encode`: codes of images or vectors, without adding them."""

from __future__ import annotations

from pathlib import Path

import click

from hyperpq.cli import common


@click.command("encode")
@click.argument("inputs", nargs=-1, required=True, metavar="IMG|X...")
@click.option(
    "-o",
    "--out",
    required=True,
    type=common.PATH,
    metavar="CODES.npy",
    help="Where to write the codes, uint8 of shape (n, code_size).",
)
@common.index_option
@common.backbone_option
@common.device_option
@common.workers_option
@common.quiet_option
def command(
    inputs: tuple[str, ...],
    out: Path,
    index_path: Path,
    backbone: str | None,
    device: str,
    workers: int,
    quiet: bool,
) -> None:
    """Write the codes of images, or of files of vectors, under the codec of an index.

    The names of the images, in the order of the codes, go to stdout.
    """
    import sys

    from hyperpq.io.npy_files import check_writable, save_codes
    from hyperpq.io.vector_files import is_vector_file, open_vectors

    check_writable(out)

    if all(is_vector_file(Path(name)) for name in inputs):
        from hyperpq.index.hihpq_index import HiHPQIndex

        index = HiHPQIndex.load(index_path, device=device)
        files = [open_vectors(name, d=index.d) for name in inputs]
        save_codes(out, [index.encode(block) for file in files for block in file.blocks()])
        return

    from hyperpq.images.image_index import ImageIndex
    from hyperpq.images.listing import query_paths

    images = ImageIndex.open(index_path, device=device, backbone=backbone)
    encoded = images.encode(
        query_paths(inputs, sys.stdin.buffer), workers=workers, progress=common.progress(quiet)
    )
    save_codes(out, [encoded.codes])
    common.emit("".join(f"{common.name(path)}\n" for path in encoded.paths))
    for path, reason in encoded.skipped.items():
        click.echo(f"hyperpq: {common.name(path)}: {reason}", err=True)
    if encoded.skipped:
        raise click.exceptions.Exit(1)
