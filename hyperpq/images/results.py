"""What an `ImageIndex` returns: answers with their results, codes, and the report of an update."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.store.columns import TIME, as_json
from hyperpq.utils.json_text import for_json, path_text

AttributeValue: TypeAlias = bool | int | float | str | np.datetime64 | None
"""The value of an attribute of an image; a time is UTC."""


@dataclass(frozen=True)
class Result:
    """One image that a query found.

    Attributes
    ----------
    rank : int
        Counted from 1.
    distance : float
        Distance of the index metric; smaller is nearer.
    similarity : float or None
        From 0 to 100; None if the index cannot tell.
    id : int
        Id of the image in the index.
    path : str
        Path of the image, as `os.fsdecode` returns it: a name that is not UTF-8 has surrogates,
        and `open` takes it as it is.
    attributes : mapping of str to bool, int, float, str, numpy.datetime64 or None
        What the index has recorded of the image: ``folder``, ``size``, ``mtime``, ``width`` and
        ``height``.
    """

    rank: int
    distance: float
    similarity: float | None
    id: int
    path: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict, hash=False)

    @property
    def path_bytes(self) -> bytes:
        """Path of the image as bytes, in the encoding of the file system."""
        return os.fsencode(self.path)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values.

        A time is text as of ISO 8601, in UTC. Where a path is not UTF-8, ``path`` has replacement
        characters, and ``path_bytes`` is there, too: its bytes in Base64.
        """
        values = {name: as_json(value) for name, value in self.attributes.items()}
        result: dict[str, Any] = for_json(
            {
                "rank": self.rank,
                "distance": self.distance,
                "similarity": self.similarity,
                "id": self.id,
                "path": path_text(self.path_bytes),
                "attributes": values,
            }
        )
        return result

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())


@dataclass(frozen=True)
class QueryPart:
    """One of several images that are one query.

    Attributes
    ----------
    path : str
        Path of the image, as `Result.path`; empty for an image that does not come from a file.
    weight : float
        Its weight, below 0 for an image that is subtracted.
    id : int, optional
        Its id, where the query names images of the index by their ids.
    """

    path: str
    weight: float
    id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The part as JSON values: ``path``, ``weight``, and ``id`` if it has one."""
        part: dict[str, Any] = for_json(
            {"path": path_text(os.fsencode(self.path)), "weight": self.weight}
        )
        return part if self.id is None else part | {"id": self.id}


@dataclass(frozen=True)
class Answer:
    """The answer to a query: its results, or the reason why the query image cannot be read.

    Attributes
    ----------
    query : str
        Path of the query image, as `Result.path`; empty for an image that does not come from a
        file.
    results : list of Result
        The images that were found, nearest first.
    error : str, optional
        Why the image cannot be read.
    parts : tuple of QueryPart
        All images of the query with their weights, if it has several (`Combination`); ``query`` is
        the first of them.
    """

    query: str
    results: list[Result] = field(default_factory=list)
    error: str | None = None
    parts: tuple[QueryPart, ...] = ()

    @property
    def query_bytes(self) -> bytes:
        """Path of the query image as bytes, in the encoding of the file system."""
        return os.fsencode(self.query)

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON values: ``query``, ``error`` and ``results``, see `Result.to_dict`.

        ``parts`` is there, too, if the query has several images, see `QueryPart.to_dict`.
        """
        answer: dict[str, Any] = for_json(
            {"query": path_text(self.query_bytes), "error": self.error}
        )
        if self.parts:
            answer["parts"] = [part.to_dict() for part in self.parts]
        return answer | {"results": [result.to_dict() for result in self.results]}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())


class Answers(list[Answer]):
    """The answers to several queries, in their order: a list that becomes a table or JSON."""

    def to_dict(self) -> dict[str, Any]:
        """All results as a table, with one row for each result.

        Returns
        -------
        dict of str to list or ndarray
            Columns of the same length, as ``pandas.DataFrame``, ``polars.DataFrame`` and
            ``pyarrow.table`` take them: ``number`` (which query, from 0), ``query``, ``rank``,
            ``distance``, ``similarity``, ``id``, ``path``, and the attributes, of which times are
            ``datetime64[ns]``. A query without results has no row. Where a path is not UTF-8, it
            has replacement characters, and a column ``path_bytes`` (``query_bytes``) is there.
        """
        rows = [
            (number, answer.query, result)
            for number, answer in enumerate(self)
            for result in answer.results
        ]
        found = [result for _, _, result in rows]
        table: dict[str, Any] = {
            "number": [number for number, _, _ in rows],
            **_texts("query", [query for _, query, _ in rows]),
            "rank": [result.rank for result in found],
            "distance": [result.distance for result in found],
            "similarity": [result.similarity for result in found],
            "id": [result.id for result in found],
            **_texts("path", [result.path for result in found]),
        }
        names = dict.fromkeys(name for result in found for name in result.attributes)
        attributes = {name: _column([r.attributes.get(name) for r in found]) for name in names}
        # The names of attributes are free.
        return table | {name: attributes[name] for name in names if name not in table}

    def to_json(self) -> str:
        """All answers as a JSON array, see `Answer.to_dict`."""
        return json.dumps([answer.to_dict() for answer in self])


def _texts(name: str, paths: Sequence[str]) -> dict[str, Any]:
    """A column of paths as Unicode, and one of their bytes if that cannot say them."""
    names = [os.fsencode(path) for path in paths]
    texts = [path.decode("utf-8", "replace") for path in names]
    is_lossy = any(text.encode() != path for text, path in zip(texts, names, strict=True))
    return {name: texts} | ({f"{name}_bytes": names} if is_lossy else {})


def _column(values: Sequence[AttributeValue]) -> list[AttributeValue] | NDArray[np.datetime64]:
    """The values of an attribute as a column of a table."""
    if any(isinstance(value, np.datetime64) for value in values):
        return np.array(values, TIME)
    return list(values)


@dataclass(frozen=True)
class Encoded:
    """Codes of images.

    Attributes
    ----------
    codes : ndarray, shape (n, code_size), uint8
        Codes of the images that could be read.
    rows : ndarray, shape (n,), int64
        Which of the images these are, counted from 0.
    paths : list of str
        Their paths, as `Result.path`; empty for images that do not come from a file.
    skipped : dict of int to str
        Which images have no code, and why.
    """

    codes: NDArray[np.uint8]
    rows: NDArray[np.int64]
    paths: list[str]
    skipped: dict[int, str]


@dataclass
class UpdateReport:
    """What an update changed.

    Attributes
    ----------
    added, removed, unchanged : int
        Numbers of images; a changed image counts as removed and added.
    kept : int
        Number of images that the index keeps as they were, although they could not be examined or
        not be read.
    skipped : dict of bytes to str
        Path and reason of each file that could not be used.
    moved : int
        Number of images that were recognised by another path or with another time, and not encoded
        again. They count neither as removed nor as added.
    """

    added: int = 0
    removed: int = 0
    unchanged: int = 0
    kept: int = 0
    skipped: dict[bytes, str] = field(default_factory=dict)
    moved: int = 0
