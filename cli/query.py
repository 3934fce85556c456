"""`hyperpq query`: find the images of an index that are most similar to others, or vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hyperpq.cli import conditions, formats, options, output, query_images, query_vectors
from hyperpq.cli.looks import Looks, options_of_looks

_FORMATS = sorted({*formats.WRITERS, *query_vectors.FORMATS})


@click.command("query")
@click.argument("inputs", nargs=-1, required=True, type=options.NAME, metavar="IMG|FILE...")
@options.k_option
@options.index_option
@click.option(
    "--format",
    "style",
    type=click.Choice(_FORMATS),
    help="Format of the results; paths is for images only, npz and ivecs for vectors. "
    "[default: by the ending of OUT; table without --out]",
)
@options.json_option
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    metavar="OUT",
    help="File to write the results to, such as results.csv. The formats npz and ivecs need one.",
)
@click.option(
    "--where",
    type=options.TEXT,
    metavar="CONDITION",
    help="Search only what fulfils a condition, such as "
    "\"folder == 'cats' and width >= 512\". Other attributes of images are height, size, mtime, "
    "path and id; see docs/how-to/filters.md.",
)
@click.option(
    "--max-distance",
    type=float,
    metavar="D",
    help="Leave out images at a larger distance.",
)
@click.option(
    "--min-similarity",
    type=float,
    metavar="S",
    help="Leave out images with a smaller similarity, from 0 to 100.",
)
@click.option(
    "--existing",
    is_flag=True,
    help="Leave out images whose files are gone, or on a disk that is not mounted.",
)
@click.option(
    "--refine/--no-refine",
    default=None,
    help="Rank the best codes again by the features that the index keeps, or, without features, by "
    "the whole codes of the objective fidelity. [default: --refine for images, if the index has "
    "either]",
)
@click.option(
    "--nprobe",
    type=options.Whole(min=1),
    metavar="N",
    help="Search the N cells nearest to each query, of an index that has cells (hyperpq build "
    "--cells): faster, and approximate. [default: all]",
)
@click.option(
    "--recall",
    type=float,
    metavar="R",
    help="Search as few cells as find a share R of the exact results, such as 0.95, by what was "
    "measured on the index; in place of --nprobe.",
)
@options_of_looks
@options.null_option
@click.option(
    "--plus",
    type=options.NAME,
    multiple=True,
    metavar="IMG[:WEIGHT]",
    help="Search for what is like each IMG and this image: for their mean, with weights, 1 by "
    "default. The option can be repeated.",
)
@click.option(
    "--minus",
    type=options.NAME,
    multiple=True,
    metavar="IMG[:WEIGHT]",
    help="Search for what is like each IMG and less like this image, with a weight, 0.25 by "
    "default. The option can be repeated.",
)
@click.option(
    "--stdin-image",
    is_flag=True,
    help="The name - is the content of one image on stdin, and no list of names.",
)
@click.option(
    "--exclude-self",
    is_flag=True,
    help="Exclude the query image itself; with --plus and --minus, these images, too.",
)
@options.dataset_option
@options.threads_option
@options.backbone_option
@options.device_option
@options.workers_option
@options.quiet_option
def command(
    inputs: tuple[str, ...],
    k: int,
    index_path: Path,
    style: str | None,
    as_json: bool,
    out: Path | None,
    where: str | None,
    refine: bool | None,
    nprobe: int | None,
    recall: float | None,
    dataset: str | None,
    threads: int | None,
    device: str,
    workers: int | str,
    quiet: bool,
    html: Path | None,
    contact_sheet: Path | None,
    preview: bool,
    open_page: bool,
    thumbnail_size: int | None,
    null: bool,
    plus: tuple[str, ...],
    minus: tuple[str, ...],
    stdin_image: bool,
    **for_images: Any,
) -> None:
    """Find the images most similar to each IMG.

    IMG is an image, a folder of images, @FILE for a file with one name per line, or - for names on
    stdin. An IMG that begins with https:// or http:// is fetched from the web.

    With files of vectors, as `hyperpq import` takes them, the command finds what is nearest to each
    vector of FILE: vectors of the index, or images, whose features the vectors are compared with. A
    query is then named by its number, counted from 0 over all files. The command `hyperpq search`
    is the same.
    """
    # A file is enough, unless results are asked for as text, too.
    looks = Looks(html, contact_sheet, preview, open_page, thumbnail_size)
    is_wanted = not looks.files or bool(style or as_json or out)
    style = options.format_of(style, as_json)
    conditions.check_quoted(where, inputs)
    _check_no_number(inputs, refine)
    wanted = query_vectors.Wanted(
        k, index_path, where, refine, nprobe, recall, threads, device, quiet
    )
    if refine:
        _need_features(index_path)
    if query_vectors.are_vectors(inputs):
        options.refuse(
            "files of vectors", "images", **for_images, null=null, workers=workers or None
        )
        to_vectors = query_vectors.Results(style, out, is_wanted, looks)
        query_vectors.run([Path(name) for name in inputs], wanted, dataset, to_vectors)
        return
    options.refuse("images", "files of vectors", dataset=dataset)
    style = output.format_of_file(style, out, formats.ENDINGS)
    if style not in formats.WRITERS:
        raise click.UsageError(f"the format {style} is for files of vectors; images were given.")
    to = query_images.Results(style, out, is_wanted, null, looks)
    combined = query_images.Combined(plus, minus, stdin_image)
    query_images.run(inputs, wanted, to, combined, workers=workers, **for_images)


def _check_no_number(inputs: Sequence[str], refine: bool | None) -> None:
    """Refuse a number after --refine, as in Python, which would be the name of an image."""
    number = next((name for name in inputs if name.isdecimal()), None)
    if refine is not None and number is not None and not os.path.lexists(number):
        raise click.UsageError(
            f"{number} is no image, and --refine takes no number; expected --refine or "
            "--no-refine alone."
        )


def _need_features(index_path: Path) -> None:
    """Raise `InvalidInputError` if an index has nothing to rank its best codes by."""
    from hyperpq.errors import InvalidInputError
    from hyperpq.index.directory import codec_of, kept_features
    from hyperpq.store import IndexStore

    store = IndexStore.open(index_path)
    if kept_features(store) is None and not codec_of(store).has_corrections:
        raise InvalidInputError(
            f"{index_path} keeps no features, which --refine ranks by; expected an index of images "
            "that was built with --features, such as --features int8; leave --refine out to rank "
            "by codes."
        )
