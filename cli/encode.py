"""`hyperpq encode`: codes of images or vectors, without adding them to the index."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from hyperpq.cli import index_kind, options, output, streams
from hyperpq.errors import InvalidInputError


@click.command("encode")
@click.argument("inputs", nargs=-1, required=True, type=options.NAME, metavar="IMG|FILE...")
@click.option(
    "-o",
    "--out",
    required=True,
    type=options.PATH,
    metavar="CODES.npy",
    help="File to write the codes to, an array of uint8 of shape (n, code_size).",
)
@options.index_option
@options.dataset_option
@options.null_option
@options.backbone_option
@options.device_option
@options.workers_option
@options.quiet_option
def command(
    inputs: tuple[str, ...],
    out: Path,
    index_path: Path,
    dataset: str | None,
    null: bool,
    backbone: str | None,
    device: str,
    workers: int | str,
    quiet: bool,
) -> None:
    """Write the codes of images or vectors to a file.

    The codes are those of the codec of an index, to which nothing is added. IMG is an image, also
    one on the web (https://), a folder of images, @FILE for a file with one name per line, or - for
    names on stdin. FILE is a file of vectors, as for `hyperpq import`. The names of the images are
    printed in the order of their codes.
    """
    from hyperpq.io.encode_vectors import encode_vectors, save_codes
    from hyperpq.io.vector_files import is_vector_file
    from hyperpq.utils.output_files import check_writable, is_stream

    if out.suffix.lower() != ".npy" and not is_stream(out) and not out.is_dir():
        raise click.UsageError(f"{out} has another ending than .npy, the format of the codes.")
    check_writable(out)
    if all(is_vector_file(Path(name)) for name in inputs):
        codes = encode_vectors(inputs, index_path, dataset=dataset, device=device)
        save_codes(out, codes)
        if not quiet:
            output.emit_summary([("codes", f"{sum(map(len, codes)):,}"), ("file", out)], out)
        return

    from hyperpq.images.image_index import ImageIndex
    from hyperpq.images.listing import query_paths

    options.refuse("images", "files of vectors", dataset=dataset)
    index_kind.need_images_for(index_path, inputs)
    if "-" in inputs:
        streams.check_stdin()
    named = query_paths(inputs, sys.stdin.buffer, null=null)
    missing = named.missing()
    if len(missing) == len(named.paths) and not named.skipped:
        # Nothing would be left to encode; what takes seconds is not loaded.
        raise InvalidInputError(
            f"{os.fsdecode(next(iter(missing)))} does not exist; give an existing image."
        )
    with output.progress(quiet) as progress:
        images = ImageIndex.open(index_path, device=device, backbone=backbone)
        encoded = images.encode(named.images, workers=workers, progress=progress)
    save_codes(out, [encoded.codes])
    output.emit(output.names([named.paths[row] for row in encoded.rows], null=null))
    skipped = {named.paths[row]: reason for row, reason in encoded.skipped.items()}
    skipped |= named.skipped
    for path, reason in skipped.items():
        output.warn(path, reason)
    if skipped:
        raise click.exceptions.Exit(1)
