"""Answers of a query as text: table, paths, JSON, NDJSON and CSV.

Queries that could not be read are left out.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hyperpq.cli.output import names
from hyperpq.cli.text import for_json, name, quoted

if TYPE_CHECKING:
    from hyperpq.images.results import Answer, Result

# Names of columns and of JSON fields, in their order.
_FIELDS = ("rank", "distance", "id", "path")
ENDINGS = {
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".txt": "paths",
}
"""Formats by the endings of files."""


def _values(result: Result) -> tuple[object, ...]:
    """What a result has in `_FIELDS`."""
    return result.rank, result.distance, result.id, name(os.fsencode(result.path))


def _objects(answers: Sequence[Answer]) -> list[Any]:
    objects = [
        {
            "query": name(os.fsencode(answer.query)),
            "results": [dict(zip(_FIELDS, _values(r), strict=True)) for r in answer.results],
        }
        for answer in answers
        if not answer.error
    ]
    return [for_json(item) for item in objects]


def _table(answers: Sequence[Answer], null: bool) -> str:
    lines = []
    for answer in answers:
        if not answer.error:
            lines.append(f"{quoted(os.fsencode(answer.query))}\n")
            lines += [
                f"{r.rank:>5}  {r.distance:>9.4f}  {quoted(os.fsencode(r.path))}\n"
                for r in answer.results
            ]
    return "".join(lines)


def _paths(answers: Sequence[Answer], null: bool) -> str:
    return names((os.fsencode(r.path) for a in answers for r in a.results), null=null)


def _json(answers: Sequence[Answer], null: bool) -> str:
    return json.dumps(_objects(answers), indent=1) + "\n"


def _ndjson(answers: Sequence[Answer], null: bool) -> str:
    return "".join(json.dumps(item) + "\n" for item in _objects(answers))


def _csv(answers: Sequence[Answer], null: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", *_FIELDS])
    for answer in answers:
        query = name(os.fsencode(answer.query))
        writer.writerows([query, *_values(r)] for r in answer.results)
    return text.getvalue()


WRITERS: dict[str, Callable[[Sequence[Answer], bool], str]] = {
    "table": _table,
    "paths": _paths,
    "json": _json,
    "ndjson": _ndjson,
    "csv": _csv,
}
"""Each takes the answers, and whether a NUL follows each of the names in `paths`."""
