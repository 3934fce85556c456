"""Queries by vectors in files, for `hyperpq query`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperpq.cli import conditions, formats, index_kind, options, output
from hyperpq.cli.looks import Looks

if TYPE_CHECKING:
    from hyperpq.images.results import Answer
    from hyperpq.io.search_vectors import FoundVectors

# `io.result_files` and `io.vector_files` have the same names; they are not imported for the help.
FORMATS = ("table", "csv", "json", "ndjson", "npz", "ivecs")
_ENDINGS = (".npy", ".npz", ".fvecs", ".bvecs", ".ivecs", ".h5", ".hdf5", ".parquet")


@dataclass(frozen=True)
class Wanted:
    """What is searched for, whether the queries are images or vectors."""

    k: int
    index_path: Path
    where: str | None
    refine: bool | None
    nprobe: int | None
    recall: float | None
    threads: int | None
    device: str
    quiet: bool

    def facts(self, **limits: Any) -> list[tuple[str, str]]:
        """What is said about the search where its results are shown as images."""
        out = [("index", os.fspath(self.index_path)), ("results", f"at most {self.k:,} each")]
        if self.where is not None:
            out.append(("where", self.where))
        for name, value in options.given(**limits).items():
            out.append((name.replace("_", " "), "yes" if value is True else f"{value:g}"))
        return out


@dataclass(frozen=True)
class Results:
    """Where results go, see `hyperpq.cli.query_images.Results`."""

    style: str | None
    out: Path | None
    is_wanted: bool
    looks: Looks


def are_vectors(names: Sequence[str]) -> bool:
    """Whether names are those of files of vectors, by their endings.

    Raises
    ------
    click.UsageError
        If only some of them are.
    """
    kinds = [name.lower().endswith(_ENDINGS) for name in names]
    if any(kinds) and not all(kinds):
        vectors, other = names[kinds.index(True)], names[kinds.index(False)]
        raise click.UsageError(
            f"{vectors} is a file of vectors, and {other} is not; expected either images or files "
            "of vectors."
        )
    return all(kinds)


def run(
    inputs: Sequence[Path],
    wanted: Wanted,
    dataset: str | None,
    to: Results,
) -> None:
    """Search an index for the vectors in files, and print or write what was found."""
    from hyperpq.io import result_files
    from hyperpq.io.search_vectors import search_vectors
    from hyperpq.utils.output_files import check_writable

    style, out = to.style, to.out
    of_images = index_kind.is_of_images(wanted.index_path)
    if to.looks and not of_images:
        raise click.UsageError(
            f"{to.looks.given} is for an index of images; {wanted.index_path} has vectors."
        )
    to.looks.check()
    own = formats.ENDINGS if of_images else {}
    style = output.format_of_file(style, out, {**result_files.ENDINGS, **own})
    if style not in FORMATS and not (of_images and style in formats.WRITERS):
        raise click.UsageError(
            f"the format {style} is for images; {wanted.index_path} has vectors."
        )
    is_text = style in result_files.TEXTS or style in formats.WRITERS
    if out is not None:
        check_writable(out)
    elif not is_text:
        raise click.UsageError(f"the format {style} is not text; name a file with --out.")
    found = _Counts()
    with output.progress(wanted.quiet) as progress:
        batches = found.counted(
            search_vectors(
                inputs,
                wanted.index_path,
                wanted.k,
                dataset=dataset,
                where=wanted.where,
                # As for images.
                refine="auto" if wanted.refine or (of_images and wanted.refine is None) else None,
                nprobe=wanted.nprobe,
                recall=wanted.recall,
                threads=wanted.threads,
                device=wanted.device,
                progress=progress,
            )
        )
        if to.looks:
            batches = found.kept(batches)
        if not to.is_wanted:
            for _ in batches:
                pass
        elif of_images and is_text:
            shown = (formats.of_vectors(batch.answers or (), batch.start) for batch in batches)
            output.emit_to(out, formats.WRITERS[style](shown, False))
        elif is_text and out is None:
            for text in result_files.texts(batches, style):
                output.emit(text)
        else:
            assert out is not None  # checked above
            result_files.write_results(batches, out, style)
    if to.looks:
        from hyperpq.gallery import sections_of

        to.looks.show(sections_of(found.answers), wanted.facts(), wanted.index_path)
    files = [path for path in (out, *to.looks.files) if path is not None]
    if files and (out is not None or not to.is_wanted) and not wanted.quiet:
        facts = [("queries", f"{found.queries:,}"), *(("file", path) for path in files)]
        output.emit_summary(facts, files[0])
    if not wanted.quiet:
        output.warn_of_values(wanted.index_path, wanted.where)
    if wanted.quiet or not found.queries or found.results:
        return
    noun = "image" if of_images else "vector"
    if wanted.where is None:
        output.note(f"nothing was found: {wanted.index_path} has no {noun}s.")
    else:
        said = conditions.unfulfilled(f"{noun} of {wanted.index_path}", wanted.where)
        output.note(f"nothing was found: {said}")


class _Counts:
    """Counts of queries and of results that have been passed on."""

    def __init__(self) -> None:
        self.queries = self.results = 0
        self.answers: list[Answer] = []

    def counted(self, batches: Iterable[FoundVectors]) -> Iterator[FoundVectors]:
        """Pass batches on."""
        for batch in batches:
            self.queries += len(batch.I)
            self.results += int((batch.I >= 0).sum())
            yield batch

    def kept(self, batches: Iterable[FoundVectors]) -> Iterator[FoundVectors]:
        """Pass batches on, and keep their answers."""
        for batch in batches:
            self.answers += batch.answers or ()
            yield batch
