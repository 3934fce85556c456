"""`imports.csv`: which files of vectors an index has, so that none is imported twice by mistake."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

from hyperpq.filters.selectors import IDSelectorRange, SearchParameters

if TYPE_CHECKING:
    from hyperpq.index.collection import Collection

NAME = "imports.csv"


@dataclass(frozen=True)
class ImportedFile:
    """A file whose vectors were added to an index.

    Attributes
    ----------
    checksum : str
        XXH3 of the vectors as float32, so that it is that of their values and not of the file.
    vectors : int
        Number of vectors in the file.
    added : int
        Number of vectors of the file that were added, from the first on; fewer if the import was
        interrupted.
    first_id, last_id : int
        Lowest and highest id of these.
    name : str
        Path of the file, as it was given.
    """

    checksum: str
    vectors: int
    added: int
    first_id: int
    last_id: int
    name: str

    def is_in(self, collection: Collection) -> bool:
        """Whether a row that the file gave may still be there: one with an id in its range."""
        selector = IDSelectorRange(self.first_id, self.last_id + 1)
        return len(collection.view().select(SearchParameters(sel=selector))) > 0


_NAMES = tuple(field.name for field in fields(ImportedFile))


def read_imports(collection: Collection) -> list[ImportedFile]:
    """The files that an index has vectors of. What cannot be read as such is left out."""
    data = collection.read_report(NAME)
    if not data:
        return []
    out = []
    for row in csv.DictReader(io.StringIO(data.decode("utf-8", "surrogateescape"))):
        try:
            vectors, added, first, last = (int(row[name]) for name in _NAMES[1:-1])
            out.append(ImportedFile(row["checksum"], vectors, added, first, last, row["name"]))
        except (KeyError, TypeError, ValueError):
            # The report is for people, who may have changed it.
            continue
    return out


def add_imports(collection: Collection, files: Sequence[ImportedFile]) -> None:
    """Note that vectors of files were added to an index."""
    with collection.exclusive():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_NAMES)
        writer.writerows(map(astuple, [*read_imports(collection), *files]))
        collection.write_report(NAME, text.getvalue().encode("utf-8", "surrogateescape"))
