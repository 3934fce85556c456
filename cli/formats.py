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
    from hyperpq.images.results import Answer, Result

ENDINGS = {
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".txt": "paths",
}
"""Formats by the endings of files."""


def _objects(answers: Sequence[Answer]) -> list[Any]:
    return [
        for_json({"query": name(answer.query_bytes)})
        | {"results": [result.to_dict() for result in answer.results]}
        for answer in answers
        if not answer.error
    ]


def _table(answers: Sequence[Answer], null: bool) -> str:
    lines = []
    # An index can have no similarities at all, and then there is no column of them.
    has_similarity = any(r.similarity is not None for a in answers for r in a.results)
    for answer in answers:
        if not answer.error:
            lines.append(f"{quoted(answer.query_bytes)}\n")
            for r in answer.results:
                similarity = f"  {_similarity(r):>5}" if has_similarity else ""
                lines.append(
                    f"{r.rank:>5}  {r.distance:>9.4f}{similarity}  {quoted(r.path_bytes)}\n"
                )
    return "".join(lines)


def _similarity(result: Result) -> str:
    return "" if result.similarity is None else f"{result.similarity:.1f}"


def _paths(answers: Sequence[Answer], null: bool) -> str:
    return names((r.path_bytes for a in answers for r in a.results), null=null)


def _json(answers: Sequence[Answer], null: bool) -> str:
    return json.dumps(_objects(answers), indent=1) + "\n"


def _ndjson(answers: Sequence[Answer], null: bool) -> str:
    return "".join(json.dumps(item) + "\n" for item in _objects(answers))


def _csv(answers: Sequence[Answer], null: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "distance", "similarity", "id", "path"])
    for answer in answers:
        query = name(answer.query_bytes)
        for r in answer.results:
            # An empty field where there is none.
            writer.writerow([query, r.rank, r.distance, r.similarity, r.id, name(r.path_bytes)])
    return text.getvalue()


WRITERS: dict[str, Callable[[Sequence[Answer], bool], str]] = {
    "table": _table,
    "paths": _paths,
    "json": _json,
    "ndjson": _ndjson,
    "csv": _csv,
}
"""Each takes the answers, and whether a NUL follows each of the names in `paths`."""
