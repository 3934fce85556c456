"""Results of a search of vectors as text, and as npz and ivecs files."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from hyperpq.errors import InvalidInputError
from hyperpq.io.search_vectors import FoundVectors
from hyperpq.utils.output_files import check_writable, written_aside

ENDINGS = {
    ".npz": "npz",
    ".ivecs": "ivecs",
    ".csv": "csv",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}
"""Formats by the endings of files."""


def as_table(found: FoundVectors) -> str:
    """Results for people: a line for each query, and one for each result."""
    lines = []
    for row, (distances, ids) in enumerate(zip(found.D.tolist(), found.I.tolist(), strict=True)):
        lines.append(f"query {found.start + row}\n")
        pairs = zip(distances, ids, strict=True)
        lines += [f"{i:>5}  {d:>9.4f}  {id}\n" for i, (d, id) in enumerate(pairs, 1) if id >= 0]
    return "".join(lines)


def as_csv(found: FoundVectors) -> str:
    """Results as CSV with the columns query, rank, distance and id; the header is in the first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not found.start:
        writer.writerow(["query", "rank", "distance", "id"])
    for row, (distances, ids) in enumerate(zip(found.D.tolist(), found.I.tolist(), strict=True)):
        pairs = enumerate(zip(distances, ids, strict=True), 1)
        writer.writerows(
            [found.start + row, rank, f"{distance:.9g}", id]
            for rank, (distance, id) in pairs
            if id >= 0
        )
    return text.getvalue()


def as_ndjson(found: FoundVectors) -> str:
    """Results as one JSON object per query and line."""
    lines = []
    for row, (distances, ids) in enumerate(zip(found.D.tolist(), found.I.tolist(), strict=True)):
        results = [
            {"rank": rank, "distance": distance, "id": id}
            for rank, (distance, id) in enumerate(zip(distances, ids, strict=True), 1)
            if id >= 0
        ]
        lines.append(json.dumps({"query": found.start + row, "results": results}) + "\n")
    return "".join(lines)


_TEXTS: dict[str, Callable[[FoundVectors], str]] = {
    "table": as_table,
    "csv": as_csv,
    "ndjson": as_ndjson,
}
TEXTS = (*_TEXTS, "json")
"""Formats that can be printed."""


def texts(batches: Iterable[FoundVectors], format: str) -> Iterator[str]:
    """Results as text, batch by batch.

    Parameters
    ----------
    batches : iterable of FoundVectors
        What `search_vectors` gives.
    format : str
        One of `TEXTS`; ``json`` is one array of the objects of ``ndjson``.
    """
    if format != "json":
        yield from map(_TEXTS[format], batches)
        return
    before = "[\n "
    for found in batches:
        for line in as_ndjson(found).splitlines():
            yield before + line
            before = ",\n "
    yield "\n]\n" if before.startswith(",") else "[]\n"


def write_results(
    batches: Iterable[FoundVectors], path: str | os.PathLike[str], format: str
) -> int:
    """Write results to a file, completely or not at all.

    Parameters
    ----------
    batches : iterable of FoundVectors
        What `search_vectors` gives.
    path : path-like
        The file; replaced if it exists.
    format : str
        ``npz``: arrays D (nq, k) float32 and I (nq, k) int64, which are collected in memory.
        ``ivecs``: ids as int32 in the TEXMEX layout, -1 where there are fewer than k results.
        Otherwise one of `TEXTS`, batch by batch.

    Returns
    -------
    int
        Number of queries.

    Raises
    ------
    InvalidInputError
        If there is no such format, an id is no int32, or no file can be written at ``path``.
    StoreError
        If the system refuses; a file at ``path`` is as it was.
    """
    path = Path(path)
    check_writable(path)
    if format not in (*TEXTS, "npz", "ivecs"):
        expected = ", ".join((*TEXTS, "npz", "ivecs"))
        raise InvalidInputError(f"format is {format!r}; expected one of {expected}.")
    n = 0
    with written_aside(path) as aside, open(aside, "xb") as file:

        def counted() -> Iterator[FoundVectors]:
            nonlocal n
            for found in batches:
                n += len(found.I)
                yield found

        if format in TEXTS:
            file.writelines(text.encode() for text in texts(counted(), format))
        elif format == "ivecs":
            file.writelines(map(_ivecs, counted()))
        else:
            whole = list(counted())
            D = np.concatenate([found.D for found in whole])
            I = np.concatenate([found.I for found in whole])  # noqa: E741
            np.savez(file, D=D, I=I)
    return n


def _ivecs(found: FoundVectors) -> bytes:
    nq, k = found.I.shape
    largest = int(found.I.max(initial=0))
    if largest > np.iinfo(np.int32).max:
        raise InvalidInputError(
            f"an id is {largest}, and ivecs files hold ids up to {np.iinfo(np.int32).max}; choose "
            "the format npz."
        )
    rows = np.empty((nq, 1 + k), "<i4")
    rows[:, 0], rows[:, 1:] = k, found.I
    return rows.tobytes()
