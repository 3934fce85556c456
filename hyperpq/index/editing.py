"""`EditableIndex`: adding, changing and removing vectors of an index that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.filters.selectors import IDSelector, IDSelectorArray, SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.code_index import CodeIndex
from hyperpq.store import Column, Rows, live_blocks
from hyperpq.utils.validation import as_count, as_features, as_ids

_MAX_ID = np.iinfo(np.int64).max


class EditableIndex(CodeIndex):
    """A `CodeIndex` whose rows can be changed; every change is one step, whole or not at all."""

    def add(
        self, x: Any, ids: Any | None = None, *, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Encode vectors and append them.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Vectors.
        ids : array_like, shape (n,), optional
            Ids of your own, unique and not negative; counted on from the highest unless given.
        attributes : mapping of str to array_like, each shape (n,), optional
            Columns to filter by: numbers, times or strings, see `store.columns.as_column`. The
            first addition says which columns the index has; all others give the same.

        Raises
        ------
        NotTrainedError, InvalidInputError
            Nothing was added.
        StoreError
            The disk refused; nothing was added.
        """
        codec = self._trained()
        features = as_features(x, self.d)
        # Ids and attributes are checked before the work of encoding.
        labels = self.new_ids(ids, len(features))
        if not len(features):
            return
        codes = np.zeros((len(features), self.code_size), np.uint8)
        columns = self._rows.conform(Rows(codes, np.sort(labels), attributes)).attributes
        self.append(Rows(codec.encode(features), labels, _own(columns)))

    def add_with_ids(
        self, x: Any, ids: Any, *, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """`add` with ids of your own, under FAISS's name."""
        if ids is None:
            raise InvalidInputError("ids are None; expected one a row of x, or call add(x).")
        self.add(x, ids, attributes=attributes)

    def new_ids(self, ids: Any | None, n: int) -> NDArray[np.int64]:
        """Ids (n,) int64 for new vectors: those given, checked, or counted on from `next_id`.

        Raises
        ------
        InvalidInputError
            They aren't distinct ids that the index doesn't have, or there are none left.
        """
        if ids is None:
            if self.next_id > _MAX_ID - n:
                raise InvalidInputError(
                    f"ids can't be counted on from {self.next_id}; pass ids of your own."
                )
            return np.arange(self.next_id, self.next_id + n, dtype=np.int64)
        labels = as_ids(ids, n)
        for rows, _ in self.find(labels):
            raise InvalidInputError(
                f"ids contain {labels[rows >= 0][0]}, which the index has already; ids are unique."
            )
        return labels

    def append(self, rows: Rows, *, remove: NDArray[np.int64] | None = None) -> None:
        """Append rows that are coded already and remove others, in one durable step.

        Parameters
        ----------
        rows : Rows
            Codes by this index's codec with ids that it doesn't have yet, or no longer once
            ``remove`` is gone (not checked again).
        remove : ndarray, shape (n,), int64, optional
            Ids to remove.
        """
        gone = {} if remove is None else {p: r[r >= 0] for p, r, _ in self._rows.find(remove)}
        self._rows.append(rows, gone, self._next_after(int(rows.ids[-1]) if rows.n else -1))

    def _next_after(self, last: int) -> int:
        """`next_id` once ``last`` is the highest id that was added."""
        return max(self.next_id, min(last, _MAX_ID - 1) + 1)

    def update(self, x: Any, ids: Any, *, attributes: Mapping[str, Any] | None = None) -> None:
        """Give ids new vectors, in one durable step.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Vectors.
        ids : array_like, shape (n,)
            Ids of the index, each once.
        attributes : mapping of str to array_like, optional
            New values of some columns; the others, and paths, stay.

        Raises
        ------
        NotTrainedError, InvalidInputError
            Nothing was changed.
        """
        codec, features = self._trained(), as_features(x, self.d)
        labels = as_ids(ids, len(features))
        old = [piece.take(np.sort(rows[rows >= 0])) for rows, piece in self.find(labels)]
        known = np.concatenate([np.empty(0, np.int64), *(rows.ids for rows in old)])
        self._none_missing(labels, ~np.isin(labels, known))
        if not old:
            return
        order = np.argsort(labels)
        kept = Rows.merge(old)
        new = Rows(kept.codes, labels, attributes)
        unknown = new.attributes.keys() - kept.attributes.keys()
        if unknown:
            raise InvalidInputError(
                f"attributes have {min(unknown)}; the index has "
                f"{', '.join(kept.attribute_names) or 'none'}."
            )
        rows = Rows(
            codec.encode(features[order]),
            kept.ids,
            kept.attributes | _own(new.attributes),
            kept.path_strings,
        )
        self.append(rows, remove=labels)

    def remove_ids(self, ids: Any | None = None, *, where: str | Where | None = None) -> int:
        """Remove vectors, in one durable step.

        Parameters
        ----------
        ids : array_like of int, or IDSelector, optional
            Ids that aren't in the index don't matter.
        where : str or Where, optional
            A condition on attributes, see `search`. With ``ids`` both must hold.

        Returns
        -------
        int
            How many were removed.
        """
        if ids is None and where is None:
            raise InvalidInputError("neither ids nor where is given; to remove all call reset().")
        gone = {}
        if where is None and not isinstance(ids, IDSelector):
            labels = np.unique(as_ids(ids, None, distinct=False))
            gone = {position: rows[rows >= 0] for position, rows, _ in self._rows.find(labels)}
        else:
            sel = ids if ids is None or isinstance(ids, IDSelector) else IDSelectorArray(ids)
            for position, piece in enumerate(self._rows.pieces):
                rows = np.flatnonzero(self.mask(piece, SearchParameters(sel, where)))
                if len(rows):
                    gone[position] = rows
        if gone:
            self._rows.commit(remove=gone)
        return sum(len(rows) for rows in gone.values())

    def merge_from(self, other: CodeIndex, add_id: int = 0) -> None:
        """Append all vectors of another index with the same codec, in one durable step.

        Parameters
        ----------
        other : HiHPQIndex
            Left as it is (FAISS would empty it).
        add_id : int
            Added to its ids.

        Raises
        ------
        InvalidInputError
            The codecs differ, an id would occur twice, or the attributes differ.
        """
        from hyperpq.codec.serialization import difference

        if not isinstance(other, CodeIndex):
            raise InvalidInputError(f"other is of {type(other)}; expected a HiHPQIndex.")
        add_id = as_count(add_id, "add_id", -_MAX_ID)
        if why := difference(self._trained(), other._trained()):
            raise InvalidInputError(
                f"other can't be merged: {why}; only indexes with one codec can, so train once."
            )
        ids = other.ids
        if len(ids) and not 0 <= int(ids[0]) + add_id <= int(ids[-1]) + add_id <= _MAX_ID:
            raise InvalidInputError(
                f"add_id is {add_id}; with it ids of other would leave 0 to 2**63 - 1."
            )
        for rows, _ in self.find(ids + add_id):
            raise InvalidInputError(
                f"id {ids[rows >= 0][0]} of other is taken once add_id {add_id} is added; "
                f"pass add_id={self.next_id}."
            )
        if not len(ids):
            return
        blocks = live_blocks(other.parts)
        moved = (Rows(b.codes, b.ids + add_id, b.attributes, b.path_strings) for b in blocks)
        next_id = self._next_after(int(ids[-1]) + add_id)
        self._rows.commit(append=map(self._rows.conform, moved), next_id=next_id)

    def reset(self) -> None:
        """Remove all vectors and count ids from 0 again; the codec stays."""
        self._rows.commit(drop=range(len(self.parts)), next_id=0)

    def compact(self) -> bool:
        """Join small pieces and drop removed rows; whether there was anything to do.

        Answers stay as they are, and readers of the directory are not disturbed.
        """
        return self._rows.compact()

    def refresh(self) -> bool:
        """See what another process has committed since; whether there was anything."""
        return self.store.refresh() if self.store else False


def _own(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Columns that the caller of `add` can't change any more, as those in memory would be."""
    return {name: column[np.arange(len(column))] for name, column in columns.items()}
