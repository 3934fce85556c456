"""What a page, a contact sheet and a terminal show: queries with their results, in sections."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperpq.datasets.file_source import is_plain_file
from hyperpq.utils.locations import absolute
from hyperpq.utils.shown_names import escaped

if TYPE_CHECKING:
    from hyperpq.images.queries import QueryLike
    from hyperpq.images.results import Answer, Result
    from hyperpq.images.sources import ImageLike, Source


@dataclass(frozen=True)
class Shown:
    """An image that is shown with its name.

    Attributes
    ----------
    source : bytes, EncodedImage or PIL.Image.Image
        Where its pixels come from; bytes are a path.
    name : bytes
        What it is called, such as its path.
    weight : float, optional
        Its weight in a query of several images.
    """

    source: Source
    name: bytes
    weight: float | None = None

    @property
    def path(self) -> bytes | None:
        """The absolute path of its file; None if it is no file, or is in a shard."""
        if isinstance(self.source, bytes) and is_plain_file(self.source):
            return self.source
        return None

    @property
    def label(self) -> str:
        """The last part of its name, for people."""
        text = os.fsdecode(os.path.basename(self.name.rstrip(b"/")) or self.name)
        return escaped(text) or "image"

    @property
    def folder(self) -> str:
        """The rest of its name."""
        return escaped(os.fsdecode(os.path.dirname(self.name)))

    @property
    def signed_weight(self) -> str:
        """The weight as ``+1`` or ``−0.5``; empty without one."""
        return "" if self.weight is None else f"{self.weight:+g}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Section:
    """A query and its results.

    Attributes
    ----------
    title : str
        What the query is called.
    query : sequence of Shown
        Its images; none for a vector.
    results : sequence of Result
        What was found, the nearest first.
    error : str, optional
        Why there is no answer.
    """

    title: str
    query: Sequence[Shown] = ()
    results: Sequence[Result] = ()
    error: str | None = None

    @property
    def found(self) -> list[Shown]:
        """The images of the results."""
        return [Shown(result.path_bytes, result.path_bytes) for result in self.results]

    @property
    def summary(self) -> str:
        """How many results there are, in words."""
        if self.error is not None:
            return f"not answered: {escaped(self.error)}"
        n = len(self.results)
        return "nothing was found" if n == 0 else "1 image" if n == 1 else f"{n:,} images"


@dataclass(frozen=True)
class Caption:
    """What is said of all sections: a title, and facts such as the filters of the search.

    Attributes
    ----------
    title : str
        Title of the whole.
    facts : sequence of (str, str)
        Names and values, in their order.
    """

    title: str = "Similar images"
    facts: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(cls, sections: Sequence[Section], facts: Sequence[tuple[str, str]] = ()) -> Caption:
        """With a title that names the query, or says how many there are."""
        if len(sections) == 1:
            return cls(f"Similar to {sections[0].title}", facts)
        return cls(f"Similar to {len(sections):,} queries", facts)


def sections_of(
    answers: Iterable[Answer], queries: Sequence[QueryLike] | None = None
) -> list[Section]:
    """Sections of the answers to queries by images.

    Parameters
    ----------
    answers : iterable of Answer
        What `ImageIndex.query` returned.
    queries : sequence of images, optional
        What it was asked for, where that were not files alone, or several images as one query. By
        default the queries are the files that the answers name.
    """
    out = []
    for number, answer in enumerate(answers):
        if queries is not None:
            shown = shown_query(queries[number])
        else:
            shown = [_file(answer.query_bytes)] if answer.query else []
        title = " ".join(f"{s.signed_weight} {s.label}".strip() for s in shown)
        out.append(Section(title or f"query {number}", shown, tuple(answer.results), answer.error))
    return out


def shown_query(query: QueryLike) -> list[Shown]:
    """The images of one query, with their weights if there are several."""
    from hyperpq.images.sources import Combination, as_sources, path_of

    weights: Sequence[float | None] = [None]
    members: Sequence[ImageLike] = [query]  # type: ignore[list-item]
    if isinstance(query, Combination):
        members = query.members
        weights = [1.0] * len(members) if query.weights is None else query.weights
    return [
        _file(source, weight)
        if isinstance(source, bytes)
        else Shown(source, path_of(source), weight)
        for source, weight in zip(as_sources(list(members)), weights, strict=True)
    ]


def _file(path: bytes, weight: float | None = None) -> Shown:
    return Shown(absolute(path), path, weight)


def similarity_text(result: Result) -> str:
    """The similarity of a result as the table of a query has it; empty where there is none."""
    return "" if result.similarity is None else f"{result.similarity:.1f}"


def distance_text(result: Result) -> str:
    """The distance of a result as the table of a query has it."""
    return f"{result.distance:.4f}"
