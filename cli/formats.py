"""Results that are images as text: table, paths, JSON, NDJSON and CSV, batch by batch."""

from __future__ import annotations

import csv
import io
import itertools
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from hyperpq.cli.output import names
from hyperpq.cli.text import for_json, name, quoted

if TYPE_CHECKING:
    from hyperpq.images.results import Answer, QueryPart, Result

ENDINGS = {
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".txt": "paths",
}
"""Formats by the endings of files."""


@dataclass(frozen=True)
class Found:
    """A query, the path of an image or the number of a vector, and its results.

    A query of several images has ``parts``, and the path of the first of them.
    """

    query: bytes | int
    results: Sequence[Result]
    parts: Sequence[QueryPart] = ()


Batches: TypeAlias = Iterable[Iterable[Found]]


def of_images(answers: Iterable[Answer]) -> list[Found]:
    """The answers to queries by images; those that could not be read are left out."""
    return [
        Found(answer.query_bytes, answer.results, answer.parts)
        for answer in answers
        if not answer.error
    ]


def of_vectors(answers: Iterable[Answer], start: int) -> list[Found]:
    """The answers to queries by vectors, which are counted from ``start`` on."""
    return [Found(number, answer.results) for number, answer in enumerate(answers, start)]


def _objects(batches: Batches) -> Iterator[Any]:
    for found in (found for batch in batches for found in batch):
        query = found.query if isinstance(found.query, int) else name(found.query)
        results = [result.to_dict() for result in found.results]
        parts = {"parts": [part.to_dict() for part in found.parts]} if found.parts else {}
        yield for_json({"query": query}) | parts | {"results": results}


def _table(batches: Batches, null: bool) -> Iterator[str]:
    for batch in batches:
        whole = list(batch)
        # An index can have no similarities at all, and then there is no column of them.
        has_similarity = any(r.similarity is not None for found in whole for r in found.results)
        for found in whole:
            query = found.query
            yield f"query {query}\n" if isinstance(query, int) else f"{quoted(query)}\n"
            for r in found.results:
                similarity = f"  {_similarity(r):>5}" if has_similarity else ""
                yield f"{r.rank:>5}  {r.distance:>9.4f}{similarity}  {quoted(r.path_bytes)}\n"


def _similarity(result: Result) -> str:
    return "" if result.similarity is None else f"{result.similarity:.1f}"


def _paths(batches: Batches, null: bool) -> Iterator[str]:
    for batch in batches:
        yield names((r.path_bytes for found in batch for r in found.results), null=null)


def _json(batches: Batches, null: bool) -> Iterator[str]:
    before = "[\n"
    for item in _objects(batches):
        yield before + textwrap.indent(json.dumps(item, indent=1), " ")
        before = ",\n"
    yield "\n]\n" if before.startswith(",") else "[]\n"


def _ndjson(batches: Batches, null: bool) -> Iterator[str]:
    for item in _objects(batches):
        yield json.dumps(item) + "\n"


def _csv(batches: Batches, null: bool) -> Iterator[str]:
    left = iter(batches)
    first = list(next(left, ()))
    # The images of combined queries come last, so that what reads columns by place still can.
    has_parts = any(found.parts for found in first)
    header = ("query", "rank", "distance", "similarity", "id", "path")
    yield _lines([(*header, "parts") if has_parts else header])
    for batch in itertools.chain([first], left):
        # An empty field where there is none.
        yield _lines(
            (
                found.query if isinstance(found.query, int) else name(found.query),
                r.rank,
                r.distance,
                r.similarity,
                r.id,
                name(r.path_bytes),
                *([json.dumps([part.to_dict() for part in found.parts])] if has_parts else ()),
            )
            for found in batch
            for r in found.results
        )


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


WRITERS: dict[str, Callable[[Batches, bool], Iterator[str]]] = {
    "table": _table,
    "paths": _paths,
    "json": _json,
    "ndjson": _ndjson,
    "csv": _csv,
}
"""Each takes batches of what was found, and whether a NUL follows each of the names in `paths`."""
