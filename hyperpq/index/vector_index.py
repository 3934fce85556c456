"""`VectorIndex`: what an index does with its codec and its rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codes import code_size
from hyperpq.errors import InvalidInputError
from hyperpq.filters.selectors import IDSelector
from hyperpq.filters.where import Where
from hyperpq.index.collection import Collection
from hyperpq.index.encoded import EncodedVectors
from hyperpq.index.index_codec import IndexCodec
from hyperpq.index.merging import must_encode_anew
from hyperpq.index.reader import IndexReader, IndexView, as_id, is_several
from hyperpq.index.searcher import trained
from hyperpq.index.streamed import add_stream
from hyperpq.index.unopened import OpensLater
from hyperpq.index.view import RowView
from hyperpq.progress import ProgressLike
from hyperpq.utils.validation import as_codes, as_features

if TYPE_CHECKING:
    from typing_extensions import Self

    from hyperpq.codec.base import Codec
    from hyperpq.index.stats import IndexStats
    from hyperpq.scan.scanner import Scanner


class VectorIndex(OpensLater, IndexReader):
    """A codec and the rows that it has coded: searching, reading and changing them.

    Attributes
    ----------
    d, device, collection
        See `HiHPQIndex`.
    """

    # What was asked for; once there is a codec, its own values count.
    _M: int
    _nbits: int
    _metric: str

    def __copy__(self) -> Self:
        return self._with(copy.copy(self.collection))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._with(copy.deepcopy(self.collection, memo))

    def _with(self, collection: Collection) -> Self:
        """An index that differs from this one in its rows and codec."""
        other = type(self).__new__(type(self))
        other.__dict__ |= self.__dict__ | {"collection": collection}
        other.__dict__.pop("_opening", None)
        return other

    def __delitem__(self, id: int | ArrayLike) -> None:
        self.collection.remove(id if is_several(id) else [as_id(id)], missing_ok=False)

    def _rows(self) -> RowView:
        return self.collection.view()

    def view(self) -> IndexView:
        """The index as it is now: its codec and its rows, for several calls that agree."""
        view = IndexView(self.collection.view(), self.d)
        view.nprobe = self.nprobe
        return view

    @property
    def codec(self) -> Codec | None:
        """The map between vectors and codes; None before training.

        It is the codec of the rows that are shown: after `refresh` or `retrain` another one may be
        here. A codec can be assigned to an index in memory that has no rows.
        """
        return self.collection.codec

    @codec.setter
    def codec(self, codec: Codec | None) -> None:
        if codec is not None and codec.d != self.d:
            raise InvalidInputError(
                f"codec is for vectors of width {codec.d}; expected width {self.d}."
            )
        size = code_size(self._M, self._nbits) if codec is None else codec.code_size
        self.collection.set_codec(IndexCodec.of(codec), size)

    @property
    def scanner(self) -> Scanner:
        """What scans the codes: a `CudaScanner` if ``device`` is a GPU, else a `CpuScanner`.

        Another one can be assigned, such as ``CudaScanner(["cuda:0", "cuda:1"])`` for the memory of
        two GPUs, or ``CpuScanner()`` for an index that only encodes on a GPU. All scanners have the
        same results. A copy of the index has the same one; a file or directory does not keep it.
        """
        return self.collection.scanner

    @scanner.setter
    def scanner(self, scanner: Scanner) -> None:
        self.collection.scanner = scanner

    @property
    def is_trained(self) -> bool:
        """Whether the index has a trained codec, which `add` and `search` need."""
        codec = self.collection.held
        return codec is not None and codec.is_trained

    @property
    def M(self) -> int:
        """Number of codes of one vector."""
        codec = self.collection.held
        return self._M if codec is None else codec.M

    @property
    def nbits(self) -> int:
        """Bits of one code."""
        codec = self.collection.held
        return self._nbits if codec is None else codec.nbits

    @property
    def metric(self) -> str:
        """Metric of the codec; before training the one that was asked for."""
        codec = self.collection.held
        return self._metric if codec is None else codec.metric

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return self.collection.code_size

    def sa_code_size(self) -> int:
        """`code_size`, by FAISS's name."""
        return self.code_size

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
        """Bytes of all columns, deleted rows and kept features included, see `stats`."""
        return self.stats().nbytes

    def stats(self) -> IndexStats:
        """How many vectors there are and how much space they take, see `IndexStats`."""
        return self.collection.stats()

    @property
    def next_id(self) -> int:
        """Id of the next vector that is added without an id."""
        return self.collection.next_id

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

    def add(
        self,
        x: ArrayLike | Iterator[ArrayLike],
        ids: ArrayLike | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        progress: ProgressLike = None,
    ) -> None:
        """Encode vectors and add them, in one transaction.

        Parameters
        ----------
        x : array_like, shape (n, d), or iterator of such
            Vectors. Those of an iterator, which takes neither ``ids`` nor ``attributes``, need not
            fit in memory: they are added in transactions of 1,048,576, and an error keeps these.
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
            Nothing was added, or the complete transactions of an iterator.
        """
        if isinstance(x, Iterator):
            return add_stream(self, x, ids, attributes, progress)
        vectors = as_features(x, self.d)
        trained(self.collection.held)
        columns = self.collection.check_new(len(vectors), ids, attributes)
        if len(vectors):
            self.add_encoded(self._encoded(vectors, progress), ids, attributes=columns)

    def encoded(self, x: ArrayLike, *, progress: ProgressLike = None) -> EncodedVectors:
        """Encode vectors that are to be added: a part of `add` that needs no lock.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Vectors.
        progress : Progress or bool, optional
            Where to report the vectors that are encoded.
        """
        return self._encoded(as_features(x, self.d), progress)

    def _encoded(
        self, vectors: NDArray[np.float32], progress: ProgressLike = None
    ) -> EncodedVectors:
        rows = self.collection.view()
        return EncodedVectors.of(vectors, trained(rows.held), rows.feature_codec, progress)

    def add_encoded(
        self,
        encoded: EncodedVectors,
        ids: ArrayLike | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        paths: Sequence[bytes] | None = None,
        remove: ArrayLike | None = None,
    ) -> None:
        """Add vectors that `encoded` of this index has encoded, see `Collection.add`.

        If another codec has taken the place of theirs meanwhile, they are encoded again, under the
        lock of the index, so that it has codes of its own codec alone.

        Raises
        ------
        NotTrainedError, InvalidInputError, StoreError
            Nothing was changed.
        """

        def add(codec: IndexCodec) -> None:
            vectors = encoded.by(codec)
            self.collection.add(
                vectors.codes,
                ids,
                attributes=attributes,
                paths=paths,
                features=vectors.features,
                remove=remove,
                codec=codec,
            )

        self.collection.with_codec(add)

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

        Any bytes are codes, so it is not noticed if another codec made them. Only if it is replaced
        during the call a `SnapshotChangedError` is raised. An index that keeps features takes no
        codes, which come without them.
        """
        codec = trained(self.collection.held)
        rows = as_codes(codes, codec.code_size)
        if self.has_features:
            raise InvalidInputError(
                "codes are given for an index that keeps features; expected vectors; call add(x), "
                "or make an index with features='none'."
            )
        self.collection.check_new(len(rows), ids, attributes)
        if len(rows):
            self.collection.add(rows, ids, attributes=attributes, codec=codec)

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
        vectors = as_features(x, self.d)
        trained(self.collection.held)
        self.collection.check_writable()

        encoded = self._encoded(vectors)

        def change(codec: IndexCodec) -> None:
            new = encoded.by(codec)
            self.collection.update(
                ids, new.codes, attributes=attributes, features=new.features, codec=codec
            )

        self.collection.with_codec(change)

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

    def merge_from(self, other: IndexReader, add_id: int = 0) -> None:
        """Add all vectors of another index, in one transaction.

        Both have the same codec, or the other index keeps features: its vectors are then encoded
        anew. If this index keeps features, the other one must, too.

        Parameters
        ----------
        other : HiHPQIndex or IndexView
            The other index, which stays as it is (FAISS would empty it).
        add_id : int
            Number added to its ids.

        Raises
        ------
        NotTrainedError, InvalidInputError, StoreError
            If the codecs or attributes differ or an id would occur twice; nothing was changed.
        """
        if not isinstance(other, IndexReader):
            raise InvalidInputError(f"other is of {type(other)}; expected a HiHPQIndex.")
        rows = other._rows()

        def merge(codec: IndexCodec) -> None:
            anew = must_encode_anew(codec, self.collection.view(), rows, self.d)
            self.collection.merge(rows, add_id, codec=codec, encode_anew=anew)

        self.collection.with_codec(merge)

    def reset(self) -> None:
        """Remove all vectors and count ids from 0 again; the codec stays."""
        self.collection.reset()

    def compact(self) -> bool:
        """Join small segments and drop deleted rows, see `Collection.compact`."""
        return self.collection.compact()

    def refresh(self) -> bool:
        """Show what other processes have committed since; whether there was anything."""
        return self.collection.refresh()
