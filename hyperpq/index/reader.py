"""`IndexReader` and `IndexView`: what is read from a codec and its rows, at one moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.filters.selectors import SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.search import range_search, search, with_values
from hyperpq.index.similarity import Calibration, search_similar, similarity
from hyperpq.index.view import RowView
from hyperpq.progress import ProgressLike
from hyperpq.utils.validation import as_array, as_count, as_number, as_queries

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.index.training_record import TrainingRecord


class IndexReader(ABC):
    """The calls of an index that change nothing.

    Each of them uses the codec and the rows of one snapshot.

    Attributes
    ----------
    d : int
        Width of the vectors.
    """

    d: int

    @abstractmethod
    def _rows(self) -> RowView:
        """The rows as they are now, with their codec."""

    def _trained(self) -> tuple[RowView, Codec]:
        """The rows as they are now, and their codec."""
        rows = self._rows()
        return rows, trained(rows.codec)

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
    def training(self) -> TrainingRecord | None:
        """What the codec was learned from; None if the index keeps no features."""
        return self._rows().training

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

    def search(
        self,
        x: ArrayLike,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
        D: NDArray[np.float32] | None = None,
        I: NDArray[np.int64] | None = None,  # noqa: E741
        progress: ProgressLike = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest vectors of each query by their codes; the result is exact.

        Parameters
        ----------
        x : array_like, shape (nq, d) or (d,)
            Queries, or a single one.
        k : int
            Number of results for each query.
        params : SearchParameters, optional
            Which ids are searched, as in FAISS.
        where : str or Where, optional
            Which rows are searched by their attributes, such as ``"width >= 512"``.
        threads : int, optional
            Number of threads; by default one for each core that the process may use, up to
            ``OMP_NUM_THREADS`` where that is set. It does not change the result.
        D, I : ndarray, shape (nq, k), optional
            Arrays that the results are written to, float32 and int64.
        progress : Progress or bool, optional
            Where to report.

        Returns
        -------
        D : ndarray, shape (nq, k), float32
            Distances, ascending; +inf where there are fewer than k vectors.
        I : ndarray, shape (nq, k), int64
            Ids, ties by the lower one; -1 beside +inf.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        return self._search(x, k, params, where, threads, D, I, progress)[1:]

    def _search(
        self,
        x: ArrayLike,
        k: int,
        params: SearchParameters | None,
        where: str | Where | None,
        threads: int | None,
        D: NDArray[np.float32] | None,
        I: NDArray[np.int64] | None,  # noqa: E741
        progress: ProgressLike,
    ) -> tuple[RowView, NDArray[np.float32], NDArray[np.int64]]:
        """The rows that were searched, D and I."""
        (rows, codec), k, queries = self._trained(), as_count(k, "k"), as_queries(x, self.d)
        segments = rows.code_segments(params, where)
        found = search(codec, segments, queries, k, threads, out=(D, I), progress=progress)
        return rows, *found

    def search_similar(
        self,
        x: ArrayLike,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
        progress: ProgressLike = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
        """`search`, with the similarity of each result, and with copies first.

        A copy is a vector whose kept features equal those of the query within the error with which
        the index keeps them. Its similarity is 100. That of others follows from their distance, see
        `Calibration`, and is 99 at most. An index without kept features does not know copies: the
        similarity is 100 at the distance of the query to its own code.

        Returns
        -------
        D, I : ndarray, shape (nq, k)
            As `search`; copies, which have the code of the query, come before vectors that are as
            near or nearer.
        S : ndarray, shape (nq, k), float64
            Similarities from 0 to 100, descending. NaN where there is no result, and for all but
            copies if the index has no `calibration`.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        (rows, codec), k, queries = self._trained(), as_count(k, "k"), as_queries(x, self.d)
        segments = rows.code_segments(params, where)
        return search_similar(rows, codec, segments, queries, k, threads, progress=progress)

    def similarity(self, x: ArrayLike, D: ArrayLike) -> NDArray[np.float64]:
        """Turn distances that `search` returned into similarities, see `Calibration`.

        Parameters
        ----------
        x : array_like, shape (nq, d) or (d,)
            The queries.
        D : array_like, shape (nq, k)
            Distances of their results.

        Returns
        -------
        ndarray, shape (nq, k), float64
            From 0 to 99, as a distance alone does not show a copy; 100 is for an index without kept
            features. NaN at +inf, and if the index has no `calibration`.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        (rows, codec), queries = self._trained(), as_queries(x, self.d)
        distances = as_array(D, "D")
        is_numeric = distances.dtype.kind in "fiu"
        if not is_numeric or distances.ndim != 2 or len(distances) != len(queries):
            raise InvalidInputError(
                f"D has dtype {distances.dtype} and shape {distances.shape}; expected distances of "
                f"shape ({len(queries)}, k), one row for each query."
            )
        return similarity(rows, codec, queries, distances)

    @property
    def calibration(self) -> Calibration | None:
        """The scale of similarities, see `Calibration.of`; None if the rows give none."""
        rows, codec = self._trained()
        return Calibration.of(rows, codec)

    def range_search(
        self,
        x: ArrayLike,
        radius: float,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
        progress: ProgressLike = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Find all vectors at a distance below ``radius``; other parameters as in `search`.

        Returns
        -------
        lims : ndarray, shape (nq + 1,), int64
            The results of query q are those from ``lims[q]`` to ``lims[q + 1]``.
        D : ndarray, shape (lims[-1],), float32
            Distances, ascending for each query.
        I : ndarray, shape (lims[-1],), int64
            Ids, ties by the lower one.
        """
        (rows, codec), queries = self._trained(), as_queries(x, self.d)
        radius = as_number(radius, "radius")
        segments = rows.code_segments(params, where)
        return range_search(codec, segments, queries, radius, threads, progress=progress)

    def search_and_reconstruct(
        self,
        x: ArrayLike,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
        D: NDArray[np.float32] | None = None,
        I: NDArray[np.int64] | None = None,  # noqa: E741
        R: NDArray[np.float32] | None = None,
        progress: ProgressLike = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """`search`, with what `reconstruct` returns for each result.

        Returns
        -------
        D, I
            As `search`.
        R : ndarray, shape (nq, k, M * D), float32
            Tangent vectors; NaN where there is no result.
        """
        rows, D, I = self._search(x, k, params, where, threads, D, I, progress)  # noqa: E741
        ids = np.unique(I[I >= 0])
        vectors = trained(rows.codec).decode(rows.codes_of(ids))
        return D, I, with_values(I, ids, vectors, R, "R", np.nan)

    def search_and_return_codes(
        self,
        x: ArrayLike,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
        D: NDArray[np.float32] | None = None,
        I: NDArray[np.int64] | None = None,  # noqa: E741
        codes: NDArray[np.uint8] | None = None,
        progress: ProgressLike = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.uint8]]:
        """`search`, with the code of each result.

        Returns
        -------
        D, I
            As `search`.
        codes : ndarray, shape (nq, k, code_size), uint8
            Codes; 255 in every byte where there is no result.
        """
        rows, D, I = self._search(x, k, params, where, threads, D, I, progress)  # noqa: E741
        ids = np.unique(I[I >= 0])
        return D, I, with_values(I, ids, rows.codes_of(ids), codes, "codes", 255)

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
            ids = rows.ids[rows.ids >= i0]
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

    @property
    def codec(self) -> Codec | None:
        """The codec of the rows; None before training."""
        return self.rows.codec


def trained(codec: Codec | None) -> Codec:
    """Return the codec of an index.

    Raises
    ------
    NotTrainedError
        If it has none that is trained.
    """
    if codec is None or not codec.is_trained:
        raise NotTrainedError(
            "the index is not trained; expected a codec; call train(x) of the index first."
        )
    return codec


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
