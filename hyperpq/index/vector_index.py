"""`VectorIndex`: what an index does with its codec and its rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codes import code_size
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.filters.selectors import IDSelector, SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.collection import Collection
from hyperpq.index.search import encode, range_search, search, with_values
from hyperpq.index.view import RowView
from hyperpq.utils.forks import ForkSafeLock
from hyperpq.utils.validation import (
    as_array,
    as_codes,
    as_count,
    as_features,
    as_number,
    as_queries,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from hyperpq.codec.base import Codec
    from hyperpq.index.directory import DirectoryReference
    from hyperpq.index.stats import IndexStats
    from hyperpq.progress import ProgressLike

V = TypeVar("V", bound="VectorIndex")


class VectorIndex:
    """A codec and the rows that it has coded: searching, reading and changing them.

    Attributes
    ----------
    d, M, nbits, metric, device, codec, collection
        See `HiHPQIndex`.
    """

    d: int
    M: int
    nbits: int
    device: str
    codec: Codec | None
    collection: Collection
    _metric: str

    def __reduce_ex__(self, protocol: Any) -> Any:
        reference = self.__dict__.get("_reference") or self.collection.reference
        if reference is None:
            return super().__reduce_ex__(protocol)
        return _unopened, (type(self), reference, self.__dict__.get("_device") or self.device)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Open an index that came from another process, when it is first used.

            An error then belongs to the call that uses it. While a pickle is read it would end a
            worker of a pool without a word.
            """
            fields = self.__dict__
            if "_opening" in fields and not name.startswith("__"):
                with fields["_opening"]:
                    if "_reference" in fields:
                        codec, store = fields["_reference"].open_with_codec()
                        index = type(self).from_codec(codec, device=fields["_device"])
                        index.collection = Collection(index.code_size, store)
                        fields |= index.__dict__
                        del fields["_reference"], fields["_device"]
            if name not in fields:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return fields[name]

    def __copy__(self) -> Self:
        collection = copy.copy(self.collection)
        other = type(self).__new__(type(self))
        other.__dict__ |= self.__dict__ | {"collection": collection}
        other.__dict__.pop("_opening", None)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = copy.copy(self)
        other.codec = copy.deepcopy(self.codec, memo)
        return other

    def __len__(self) -> int:
        return self.ntotal

    def __contains__(self, id: object) -> bool:
        return id in self.collection.view()

    def __iter__(self) -> Iterator[int]:
        return iter(self.collection.view())

    def __getitem__(self, id: int | ArrayLike) -> NDArray[np.float32]:
        return self.reconstruct_batch(id) if _is_several(id) else self.reconstruct(_one(id))

    def __delitem__(self, id: int | ArrayLike) -> None:
        self.collection.remove(id if _is_several(id) else [_one(id)], missing_ok=False)

    @property
    def is_trained(self) -> bool:
        """Whether the index has a trained codec, which `add` and `search` need."""
        return self.codec is not None and self.codec.is_trained

    @property
    def metric(self) -> str:
        """Metric of the codec; before training the one that was asked for."""
        return self._metric if self.codec is None else self.codec.metric

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return code_size(self.M, self.nbits)

    @property
    def metric_type(self) -> int | None:
        """FAISS's number of the metric; None for the metrics of learned codes.

        ``METRIC_L2`` (1) for plain codebooks with the metric ``l2``, whose distances are FAISS's.
        ``METRIC_INNER_PRODUCT`` (0) for those with ``ip``, whose distances are FAISS's negated: the
        nearest vector has the smallest. FAISS has none of the metrics ``l1``, ``geodesic``,
        ``chord`` and ``inner`` of learned codes.
        """
        return {"ip": 0, "l2": 1}.get(self.metric)

    @property
    def read_only(self) -> bool:
        """Whether the index was loaded with ``read_only=True``, so that changes are refused."""
        return self.collection.read_only

    @property
    def nbytes(self) -> int:
        """Bytes of codes, ids, attributes and paths, deleted rows included, see `stats`."""
        return self.stats().nbytes

    def stats(self) -> IndexStats:
        """How many vectors there are and how much space they take, see `IndexStats`."""
        return self.collection.stats()

    @property
    def ntotal(self) -> int:
        """Number of vectors in the index."""
        return self.collection.ntotal

    @property
    def next_id(self) -> int:
        """Id of the next vector that is added without an id."""
        return self.collection.next_id

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of all vectors, shape (ntotal,), int64, ascending."""
        return self.collection.view().ids

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        return self.collection.view().attribute_names

    @property
    def path(self) -> Path | None:
        """Directory of the index; None for an index in memory."""
        return self.collection.path

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON values of your own that are stored with the index.

        They are read-only; assign a mapping to change them: ``index.metadata = {"made": "here"}``.
        The assignment is checked at once. In an index directory it is durable when it returns.
        """
        return self.collection.metadata

    @metadata.setter
    def metadata(self, value: Mapping[str, Any]) -> None:
        self.collection.metadata = value

    def _trained(self) -> Codec:
        if self.codec is None or not self.codec.is_trained:
            raise NotTrainedError(
                "the index is not trained; expected a codec; call train(x) of the index first."
            )
        return self.codec

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """Vectors (n, d), or one (d,), -> codes (n, code_size) uint8, see `Codec.encode`."""
        return self._trained().encode(as_queries(x, self.d))

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Codes -> tangent vectors (n, M * D) of their codewords, see `Codec.decode`."""
        return self._trained().decode(codes)

    def sa_encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """`encode`, by FAISS's name."""
        return self.encode(x)

    def sa_decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """`decode`, by FAISS's name."""
        return self.decode(codes)

    def sa_code_size(self) -> int:
        """`code_size`, by FAISS's name."""
        return self.code_size

    def embed(self, x: ArrayLike) -> NDArray[np.float32]:
        """Vectors (n, d), or one (d,), before quantization: (n, M * D), see `Codec.embed`."""
        return self._trained().embed(as_queries(x, self.d))

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
        codec, k, queries = self._trained(), as_count(k, "k"), as_queries(x, self.d)
        rows = self.collection.view()
        segments = rows.code_segments(params, where)
        found = search(codec, segments, queries, k, threads, out=(D, I), progress=progress)
        return rows, *found

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
        codec, queries = self._trained(), as_queries(x, self.d)
        radius = as_number(radius, "radius")
        segments = self.collection.view().code_segments(params, where)
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
        vectors = self._trained().decode(rows.codes_of(ids))
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
        return self.collection.view().codes_of(ids)

    def reconstruct(self, id: int) -> NDArray[np.float32]:
        """Decoded tangent vector (M * D,) of the vector with this id, in the space of `embed`.

        Raises
        ------
        NotTrainedError
        UnknownIdError
            If the index has no such id.
        """
        return self.reconstruct_batch([_one(id)])[0]

    def reconstruct_batch(self, ids: ArrayLike) -> NDArray[np.float32]:
        """`reconstruct` for several ids: (n,) -> (n, M * D) float32."""
        return self._trained().decode(self.collection.view().codes_of(ids))

    def reconstruct_n(self, i0: int = 0, ni: int = -1) -> NDArray[np.float32]:
        """`reconstruct` for the ids from ``i0`` to ``i0 + ni - 1``, or all from i0 if ni is -1.

        Returns
        -------
        ndarray, shape (ni, M * D), float32
            In the order of the ids.
        """
        codec, i0 = self._trained(), as_count(i0, "i0", 0)
        ni = as_count(ni, "ni", -1, np.iinfo(np.int64).max - i0 + 1)
        rows = self.collection.view()
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
        return self.collection.view().select(params, where)

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
        return self.collection.view().attributes_of(ids)

    def add(
        self,
        x: ArrayLike,
        ids: ArrayLike | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        progress: ProgressLike = None,
    ) -> None:
        """Encode vectors and add them, in one transaction.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Vectors.
        ids : array_like, shape (n,), optional
            Distinct ids, at least 0, that are not in the index; counted on from the highest one by
            default.
        attributes : mapping of str to array_like, each shape (n,), optional
            Columns to filter by: numbers, times or strings, see `store.columns.as_column`. The
            first addition decides which columns the index has; all later ones give the same.
        progress : Progress or bool, optional
            Where to report the vectors that are encoded.

        Raises
        ------
        NotTrainedError, InvalidInputError, StoreError
            Nothing was added.
        """
        codec, features = self._trained(), as_features(x, self.d)
        columns = self.collection.check_new(len(features), ids, attributes)
        if len(features):
            codes = encode(codec, features, progress)
            self.collection.add(codes, ids, attributes=columns)

    def add_with_ids(
        self,
        x: ArrayLike,
        ids: ArrayLike,
        *,
        attributes: Mapping[str, Any] | None = None,
        progress: ProgressLike = None,
    ) -> None:
        """`add` with ids of your own, by FAISS's name."""
        if ids is None:
            raise InvalidInputError("ids are None; expected one for each row of x; or call add(x).")
        self.add(x, ids, attributes=attributes, progress=progress)

    def add_sa_codes(
        self,
        codes: ArrayLike,
        ids: ArrayLike | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """`add` for vectors that `encode` has encoded: codes (n, code_size) uint8.

        Any bytes are codes, so it is not noticed if another codec made them.
        """
        self._trained()
        rows = as_codes(codes, self.code_size)
        self.collection.check_new(len(rows), ids, attributes)
        if len(rows):
            self.collection.add(rows, ids, attributes=attributes)

    def update(
        self, x: ArrayLike, ids: ArrayLike, *, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Replace the vectors of some ids, in one transaction.

        Parameters
        ----------
        x : array_like, shape (n, d)
            New vectors.
        ids : array_like, shape (n,)
            Ids of the index, each once.
        attributes : mapping of str to array_like, optional
            New values of some columns; the others, and paths, stay.

        Raises
        ------
        NotTrainedError, InvalidInputError, StoreError
            Nothing was changed.
        """
        codec, features = self._trained(), as_features(x, self.d)
        self.collection.check_writable()
        self.collection.update(ids, codec.encode(features), attributes=attributes)

    def remove_ids(
        self, ids: ArrayLike | IDSelector | None = None, *, where: str | Where | None = None
    ) -> int:
        """Remove vectors, in one transaction.

        Parameters
        ----------
        ids : array_like of int, or IDSelector, optional
            Ids; those that are not in the index are ignored.
        where : str or Where, optional
            A condition on attributes, see `search`. With ``ids`` both must hold.

        Returns
        -------
        int
            Number of vectors removed.
        """
        return self.collection.remove(ids, where=where)

    def merge_from(self, other: VectorIndex, add_id: int = 0) -> None:
        """Add all vectors of another index with the same codec, in one transaction.

        Parameters
        ----------
        other : HiHPQIndex
            The other index, which stays as it is (FAISS would empty it).
        add_id : int
            Number added to its ids.

        Raises
        ------
        NotTrainedError, InvalidInputError, StoreError
            If the codecs or attributes differ or an id would occur twice; nothing was changed.
        """
        from hyperpq.codec.serialization import difference

        if not isinstance(other, VectorIndex):
            raise InvalidInputError(f"other is of {type(other)}; expected a HiHPQIndex.")
        if why := difference(self._trained(), other._trained()):
            raise InvalidInputError(
                f"other cannot be merged: {why}; expected the same codec in both; train once."
            )
        self.collection.merge(other.collection.view(), add_id)

    def reset(self) -> None:
        """Remove all vectors and count ids from 0 again; the codec stays."""
        self.collection.reset()

    def compact(self) -> bool:
        """Join small segments and drop deleted rows, see `Collection.compact`."""
        return self.collection.compact()

    def refresh(self) -> bool:
        """Show what other processes have committed since; whether there was anything."""
        return self.collection.refresh()


def _unopened(cls: type[V], reference: DirectoryReference, device: str) -> V:
    """An index in a directory that is opened when it is first used."""
    index = cls.__new__(cls)
    index.__dict__ |= {"_reference": reference, "_device": device, "_opening": ForkSafeLock()}
    return index


def _is_several(id: object) -> bool:
    """Whether ``id`` is an array of ids."""
    if isinstance(id, slice):
        raise InvalidInputError(
            f"id is {id}; expected an id or an array of ids, which are no positions; for ids that "
            "follow each other give np.arange(start, stop)."
        )
    return as_array(id, "id").ndim > 0


def _one(id: object) -> int:
    return as_count(id, "id", 0)
