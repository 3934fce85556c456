"""Answers of a query as text: table, paths, JSON, NDJSON and CSV.

Queries that could not be read are left out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hyperpq.cli.output import names
from hyperpq.cli.text import for_json, name, quoted

if TYPE_CHECKING:
    from hyperpq.images.results import Answer


def _objects(answers: Sequence[Answer]) -> list[Any]:
    objects = [
        {
            "query": name(answer.query),
            "results": [
                {"rank": r.rank, "distance": r.distance, "id": r.id, "path": name(r.path)}
                for r in answer.results
            ],
        }
        for answer in answers
        if not answer.error
    ]
    return [for_json(item) for item in objects]


def _table(answers: Sequence[Answer], null: bool) -> str:
    lines = []
    for answer in answers:
        if not answer.error:
            lines.append(f"{quoted(answer.query)}\n")
            lines += [
                f"{r.rank:>5}  {r.distance:>9.4f}  {quoted(r.path)}\n" for r in answer.results
            ]
    return "".join(lines)


def _paths(answers: Sequence[Answer], null: bool) -> str:
    return names((r.path for answer in answers for r in answer.results), null=null)


def _json(answers: Sequence[Answer], null: bool) -> str:
    return json.dumps(_objects(answers), indent=1) + "\n"


def _ndjson(answers: Sequence[Answer], null: bool) -> str:
    return "".join(json.dumps(item) + "\n" for item in _objects(answers))


def _csv(answers: Sequence[Answer], null: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "distance", "id", "path"])
    for answer in answers:
        for r in answer.results:
            writer.writerow([name(answer.query), r.rank, r.distance, r.id, name(r.path)])
    return text.getvalue()


WRITERS: dict[str, Callable[[Sequence[Answer], bool], str]] = {
    "table": _table,
    "paths": _paths,
    "json": _json,
    "ndjson": _ndjson,
    "csv": _csv,
}
"""Each takes the answers, and whether a NUL follows each of the names in `paths`."""
