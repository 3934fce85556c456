"""`IndexReader` and `IndexView`: what is read from a codec and its rows, at one moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.filters.selectors import SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.searcher import IndexSearcher
from hyperpq.index.view import RowView
from hyperpq.utils.validation import as_array, as_count, as_queries

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.codec.coder import Coder
    from hyperpq.index.training_record import TrainingRecord


class IndexReader(IndexSearcher):
    """The calls of an index that change nothing."""

    def __len__(self) -> int:
        return self.ntotal

    def __contains__(self, id: object) -> bool:
        return id in self._rows()

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows())

    def __getitem__(self, id: int | ArrayLike) -> NDArray[np.float32]:
        return self.reconstruct_batch(id) if is_several(id) else self.reconstruct(as_id(id))

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return self._rows().ntotal

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of all vectors, shape (ntotal,), int64, ascending."""
        return self._rows().ids

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        return self._rows().attribute_names

    @property
    def has_features(self) -> bool:
        """Whether the index keeps the vectors themselves, see `features_of`."""
        return self._rows().feature_codec is not None

    @property
    def can_refine(self) -> bool:
        """Whether ``refine`` of `search` has something to rank by.

        That is kept features, or codes of the objective ``fidelity``.
        """
        codec = self._rows().held
        return self.has_features or (codec is not None and codec.has_corrections)

    @property
    def nlist(self) -> int:
        """Number of cells that the codes are grouped by, see `HiHPQIndex.make_cells`; 0 if not."""
        held = self._rows().held
        return 0 if held is None or held.cells is None else held.cells.nlist

    @property
    def training(self) -> TrainingRecord | None:
        """What the codec was learned from; None if it was given, or no features are kept."""
        return self._rows().training

    @property
    def coder(self) -> Coder:
        """What encodes and compares by the codec of the rows, see `Coder`.

        Raises
        ------
        NotTrainedError
        """
        return self._trained()[1]

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """Vectors (n, d), or one (d,), -> codes (n, code_size) uint8, see `Codec.encode`."""
        return self._trained()[1].encode(as_queries(x, self.d))

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Codes -> tangent vectors (n, M * D) of their codewords, see `Codec.decode`."""
        return self._trained()[1].decode(codes)

    def sa_encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """`encode`, by FAISS's name."""
        return self.encode(x)

    def sa_decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """`decode`, by FAISS's name."""
        return self.decode(codes)

    def embed(self, x: ArrayLike) -> NDArray[np.float32]:
        """Vectors (n, d), or one (d,), before quantization: (n, M * D), see `Codec.embed`."""
        return self._trained()[1].embed(as_queries(x, self.d))

    def codes_of(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Codes (n, code_size) uint8 of the vectors with some ids, in their order.

        Raises
        ------
        UnknownIdError
            If the index does not have one of the ids.
        """
        return self._rows().codes_of(ids)

    def reconstruct(self, id: int) -> NDArray[np.float32]:
        """Decoded tangent vector (M * D,) of the vector with this id, in the space of `embed`.

        Raises
        ------
        NotTrainedError
        UnknownIdError
            If the index has no such id.
        """
        return self.reconstruct_batch([as_id(id)])[0]

    def reconstruct_batch(self, ids: ArrayLike) -> NDArray[np.float32]:
        """`reconstruct` for several ids: (n,) -> (n, M * D) float32."""
        rows, codec = self._trained()
        return codec.decode(rows.codes_of(ids))

    def reconstruct_n(self, i0: int = 0, ni: int = -1) -> NDArray[np.float32]:
        """`reconstruct` for the ids from ``i0`` to ``i0 + ni - 1``, or all from i0 if ni is -1.

        Returns
        -------
        ndarray, shape (ni, M * D), float32
            In the order of the ids.
        """
        (rows, codec), i0 = self._trained(), as_count(i0, "i0", 0)
        ni = as_count(ni, "ni", -1, np.iinfo(np.int64).max - i0 + 1)
        if ni < 0:
            ids = rows.ids
            ids = ids[ids >= i0]
        else:
            # Of more ids than there are rows, one of the first is missing.
            ids = np.arange(i0, i0 + min(ni, rows.ntotal + 1), dtype=np.int64)
        return codec.decode(rows.codes_of(ids))

    def select(
        self, params: SearchParameters | None = None, where: str | Where | None = None
    ) -> NDArray[np.int64]:
        """Ids (n,) int64, ascending, of the rows that `search` with these arguments searches."""
        return self._rows().select(params, where)

    def attributes_of(self, ids: ArrayLike) -> dict[str, NDArray[Any]]:
        """Attributes of rows, in the order of ``ids``.

        Parameters
        ----------
        ids : array_like, shape (n,)
            Ids of the index.

        Returns
        -------
        dict of str to ndarray, each shape (n,)
            Numbers, ``datetime64[ns]``, or strings (object, None where there is none).

        Raises
        ------
        UnknownIdError
            If the index does not have one of the ids.
        """
        return self._rows().attributes_of(ids)

    def paths_of(self, ids: ArrayLike) -> list[bytes]:
        """Paths of rows, in the order of ``ids``, as `os.fsencode` returns them.

        Raises
        ------
        UnknownIdError
            If the index does not have one of the ids.
        InvalidInputError
            If the rows have no paths.
        """
        return self._rows().paths_of(ids)

    def features_of(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Vectors of some ids as the index keeps them, see ``features`` of `HiHPQIndex`.

        Parameters
        ----------
        ids : array_like, shape (n,)
            Ids of the index.

        Returns
        -------
        ndarray, shape (n, d), float32
            In the order of ``ids``.

        Raises
        ------
        UnknownIdError
            If the index does not have one of the ids.
        InvalidInputError
            If the index keeps no features.
        """
        return self._rows().features_of(ids)


class IndexView(IndexReader):
    """An index at one moment: the rows and the codec that `HiHPQIndex.view` found; read-only.

    Several calls of one view agree with each other, whatever other threads and processes change
    meanwhile. No row is copied for it.

    Parameters
    ----------
    rows : RowView
        The rows, with their codec.
    d : int
        Width of the vectors.

    Attributes
    ----------
    rows : RowView
        As given.
    d : int
        As given.
    """

    def __init__(self, rows: RowView, d: int) -> None:
        self.rows, self.d = rows, d

    def __repr__(self) -> str:
        return f"IndexView(d={self.d}, ntotal={self.ntotal})"

    def _rows(self) -> RowView:
        return self.rows

    def view(self) -> IndexView:
        """The object itself, as it does not change."""
        return self

    @property
    def codec(self) -> Codec | None:
        """The codec of the rows; None before training."""
        return self.rows.codec


def is_several(id: object) -> bool:
    """Whether ``id`` is an array of ids."""
    if isinstance(id, slice):
        raise InvalidInputError(
            f"id is {id}; expected an id or an array of ids, which are no positions; for ids that "
            "follow each other give np.arange(start, stop)."
        )
    return as_array(id, "id").ndim > 0


def as_id(id: object) -> int:
    """Return ``id`` as one id.

    Raises
    ------
    InvalidInputError
        If it is none.
    """
    return as_count(id, "id", 0)
