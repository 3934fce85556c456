"""Queries by images, for `hyperpq query`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperpq.cli import conditions, formats, index_kind, options, output, query_vectors, streams
from hyperpq.cli.looks import Looks

if TYPE_CHECKING:
    from hyperpq.images import ImageIndex
    from hyperpq.images.query_parts import QueryParts
    from hyperpq.images.results import Answer


@dataclass(frozen=True)
class Results:
    """Where results go.

    Attributes
    ----------
    style : str
        Their format as text.
    out : Path, optional
        A file for them; None for stdout.
    is_wanted : bool
        Whether they are asked for as text, and not as images alone.
    null : bool
        Whether names end with a NUL.
    looks : Looks
        What shows them as images.
    """

    style: str
    out: Path | None
    is_wanted: bool
    null: bool
    looks: Looks

    def check(self) -> None:
        """Raise `InvalidInputError` if a file cannot be written."""
        from hyperpq.utils.output_files import check_writable

        if self.out is not None:
            check_writable(self.out)
        self.looks.check()

    def emit(self, answers: Sequence[Answer]) -> None:
        """Write them as text."""
        if self.is_wanted:
            texts = formats.WRITERS[self.style]([formats.of_images(answers)], self.null)
            output.emit_to(self.out, texts)

    def emit_summary(self, answered: int) -> None:
        """Say which files were written."""
        files = [path for path in (self.out, *self.looks.files) if path is not None]
        # Results on stdout are alone there.
        if files and (self.out is not None or not self.is_wanted):
            facts = [("queries", f"{answered:,}"), *(("file", path) for path in files)]
            output.emit_summary(facts, files[0])


@dataclass(frozen=True)
class Combined:
    """Images that each query is combined with.

    Attributes
    ----------
    plus, minus : tuple of str
        Their names with their weights, see `hyperpq.images.query_parts.split_weight`.
    stdin_image : bool
        Whether ``-`` is the content of an image on stdin.
    """

    plus: tuple[str, ...]
    minus: tuple[str, ...]
    stdin_image: bool

    def check(self, inputs: Sequence[str]) -> None:
        """Refuse an image on stdin that nothing names."""
        words = [*inputs, *(name.partition(":")[0] for name in (*self.plus, *self.minus))]
        if self.stdin_image and "-" not in words:
            raise click.UsageError(
                "--stdin-image is given without the name -, which stands for the image on stdin."
            )

    def parts(self) -> QueryParts:
        """The images."""
        from hyperpq.images.query_parts import QueryParts

        stdin = sys.stdin.buffer if self.stdin_image else None
        return QueryParts.named(self.plus, self.minus, stdin)


def run(
    inputs: Sequence[str],
    wanted: query_vectors.Wanted,
    to: Results,
    combined: Combined,
    *,
    exclude_self: bool,
    backbone: str | None,
    workers: int | str,
    **limits: Any,
) -> None:
    """Answer queries by images."""
    from hyperpq.images.image_index import ImageIndex
    from hyperpq.images.listing import query_paths
    from hyperpq.images.results import Answer

    to.check()
    combined.check(inputs)
    if "-" in inputs or combined.stdin_image:
        streams.check_stdin()
    parts = combined.parts()
    output.show_warnings(wanted.quiet)
    index_kind.need_images_for(wanted.index_path, inputs)
    named = query_paths(inputs, sys.stdin.buffer, null=to.null, stdin_image=parts.stdin)
    missing = named.missing()
    queries = parts.queries(named.images)
    index: ImageIndex | None = None
    if len(missing) == len(named.paths):
        # Nothing would be left to search for; what takes seconds is not loaded.
        answers = [Answer(os.fsdecode(path), [], reason) for path, reason in missing.items()]
    else:
        with output.progress(wanted.quiet, is_long=len(named.paths) >= 10) as progress:
            index = ImageIndex.open(wanted.index_path, device=wanted.device, backbone=backbone)
            answers = index.query(
                queries,
                wanted.k,
                where=wanted.where,
                exclude_self=exclude_self,
                **limits,
                refine=0 if wanted.refine is False else "auto",
                nprobe=wanted.nprobe,
                recall=wanted.recall,
                threads=wanted.threads,
                workers=workers,
                progress=progress,
            )
    failed = [(a.query_bytes, a.error) for a in answers if a.error]
    if to.looks:
        from hyperpq.gallery import sections_of

        facts = wanted.facts(exclude_self=exclude_self, **limits)
        shown = sections_of(answers, None if index is None else queries)
        to.looks.show(shown, facts, wanted.index_path)
    to.emit(answers)
    if not wanted.quiet:
        to.emit_summary(len(answers) - len(failed))
        output.warn_of_values(wanted.index_path, wanted.where)
    if not wanted.quiet and index is not None and len(failed) < len(answers):
        _explain(index, answers, wanted.where, exclude_self, options.given(**limits))
    failed += named.skipped.items()
    for path, reason in failed:
        output.warn(path, reason)
    if failed:
        raise click.exceptions.Exit(1)


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
