"""Answers of a query as text: table, paths, JSON, NDJSON and CSV.

Queries that could not be read are left out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hyperpq.cli.output import name

if TYPE_CHECKING:
    from hyperpq.images.results import Answer


def _objects(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return [
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


def _table(answers: Sequence[Answer]) -> str:
    lines = []
    for answer in answers:
        if not answer.error:
            lines.append(f"{name(answer.query)}\n")
            lines += [f"{r.rank:>5}  {r.distance:>9.4f}  {name(r.path)}\n" for r in answer.results]
    return "".join(lines)


def _paths(answers: Sequence[Answer]) -> str:
    return "".join(f"{name(r.path)}\n" for answer in answers for r in answer.results)


def _json(answers: Sequence[Answer]) -> str:
    return json.dumps(_objects(answers), indent=1) + "\n"


def _ndjson(answers: Sequence[Answer]) -> str:
    return "".join(json.dumps(item) + "\n" for item in _objects(answers))


def _csv(answers: Sequence[Answer]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "distance", "id", "path"])
    for answer in answers:
        for r in answer.results:
            writer.writerow([name(answer.query), r.rank, r.distance, r.id, name(r.path)])
    return text.getvalue()


WRITERS: dict[str, Callable[[Sequence[Answer]], str]] = {
    "table": _table,
    "paths": _paths,
    "json": _json,
    "ndjson": _ndjson,
    "csv": _csv,
}
