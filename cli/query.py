"""`hyperpq query`: find the images of an index that are most similar to others, or vectors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperpq.cli import conditions, formats, index_kind, options, output, query_vectors, streams

if TYPE_CHECKING:
    from hyperpq.images import ImageIndex
    from hyperpq.images.results import Answer

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
@options.null_option
@click.option("--exclude-self", is_flag=True, help="Exclude the query image itself.")
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
    dataset: str | None,
    threads: int | None,
    device: str,
    workers: int | str,
    quiet: bool,
    **for_images: Any,
) -> None:
    """Find the images most similar to each IMG.

    IMG is an image, a folder of images, @FILE for a file with one name per line, or - for names on
    stdin.

    With files of vectors, as `hyperpq import` takes them, the command finds what is nearest to each
    vector of FILE: vectors of the index, or images, whose features the vectors are compared with. A
    query is then named by its number, counted from 0 over all files. The command `hyperpq search`
    is the same.
    """
    style = options.format_of(style, as_json)
    conditions.check_quoted(where, inputs)
    _check_no_number(inputs, refine)
    wanted = query_vectors.Wanted(k, index_path, where, refine, threads, device, quiet)
    if refine:
        _need_features(index_path)
    if query_vectors.are_vectors(inputs):
        options.refuse("files of vectors", "images", **for_images, workers=workers or None)
        query_vectors.run([Path(name) for name in inputs], wanted, dataset, style, out)
        return
    options.refuse("images", "files of vectors", dataset=dataset)
    style = output.format_of_file(style, out, formats.ENDINGS)
    if style not in formats.WRITERS:
        raise click.UsageError(f"the format {style} is for files of vectors; images were given.")
    _query(inputs, wanted, style, out, workers=workers, **for_images)


def _check_no_number(inputs: Sequence[str], refine: bool | None) -> None:
    """Refuse a number after --refine, as in Python, which would be the name of an image."""
    number = next((name for name in inputs if name.isdecimal()), None)
    if refine is not None and number is not None and not os.path.lexists(number):
        raise click.UsageError(
            f"{number} is no image, and --refine takes no number; expected --refine or "
            "--no-refine alone."
        )


def _query(
    inputs: Sequence[str],
    wanted: query_vectors.Wanted,
    style: str,
    out: Path | None,
    *,
    null: bool,
    exclude_self: bool,
    backbone: str | None,
    workers: int | str,
    **limits: Any,
) -> None:
    """Answer queries by images."""
    from hyperpq.images.image_index import ImageIndex
    from hyperpq.images.listing import query_paths
    from hyperpq.utils.output_files import check_writable

    if out is not None:
        check_writable(out)
    if "-" in inputs:
        streams.check_stdin()
    output.show_warnings(wanted.quiet)
    index_kind.need_images_for(wanted.index_path, inputs)
    named = query_paths(inputs, sys.stdin.buffer, null=null)
    missing = named.missing()
    if len(missing) == len(named.paths):
        # Nothing would be left to search for; what takes seconds is not loaded.
        answers: list[Answer] = []
        failed = [*missing.items()]
    else:
        with output.progress(wanted.quiet, is_long=len(named.paths) >= 10) as progress:
            index = ImageIndex.open(wanted.index_path, device=wanted.device, backbone=backbone)
            answers = index.query(
                list(map(os.fsdecode, named.paths)),
                wanted.k,
                where=wanted.where,
                exclude_self=exclude_self,
                **limits,
                refine=0 if wanted.refine is False else "auto",
                threads=wanted.threads,
                workers=workers,
                progress=progress,
            )
        failed = [(a.query_bytes, a.error) for a in answers if a.error]
    output.emit_to(out, formats.WRITERS[style]([formats.of_images(answers)], null))
    if not wanted.quiet:
        if out is not None:
            answered = sum(not answer.error for answer in answers)
            output.emit_summary([("queries", f"{answered:,}"), ("file", out)], out)
        output.warn_of_values(wanted.index_path, wanted.where)
    if not wanted.quiet and len(failed) < len(answers):
        _explain(index, answers, wanted.where, exclude_self, options.given(**limits))
    failed += named.skipped.items()
    for path, reason in failed:
        output.warn(path, reason)
    if failed:
        raise click.exceptions.Exit(1)


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


def _explain(
    index: ImageIndex,
    answers: Sequence[Answer],
    where: str | None,
    exclude_self: bool,
    limits: Mapping[str, object],
) -> None:
    """Say why nothing was found."""
    if any(answer.results for answer in answers):
        return
    other = " but the query" if exclude_self else ""
    if not len(index):
        output.note(f"nothing was found: {index.index.path} has no images.")
    elif limits:
        names = " and ".join(map(options.shown, limits))
        fits = "has a file now" if list(limits) == ["existing"] else f"is within {names}"
        output.note(f"nothing was found: no image{other} {fits}.")
    elif where is not None:
        said = conditions.unfulfilled(f"image{other}", where)
        output.note(f"nothing was found: {said}")
    else:
        output.note(f"nothing was found: the index has no image{other}.")
