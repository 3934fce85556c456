"""`StreamedRows`: vectors that come in batches, and do not fit in memory together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.index.encoded import EncodedVectors
from hyperpq.index.searcher import trained
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.validation import as_features

if TYPE_CHECKING:
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.vector_index import VectorIndex

SEGMENT_SIZE = 1 << 20
"""Vectors of one segment and one commit, unless kept features make it too large."""
SEGMENT_BYTES = 1 << 28
"""Bytes of kept features of one segment, which are in memory at once."""


class StreamedRows:
    """Vectors that come in batches of any size, and are added in commits of many rows.

    Parameters
    ----------
    index : VectorIndex
        The index.
    labels : ndarray, shape (n,), int64, optional
        Ids of all n vectors that will come.

    Attributes
    ----------
    done : int
        Number of vectors added.
    """

    def __init__(self, index: VectorIndex, labels: NDArray[np.int64] | None = None) -> None:
        self._index, self._labels = index, labels
        self._codec: IndexCodec | None = None
        # Codes and kept features; the vectors themselves would take too much memory.
        self._codes: list[NDArray[np.uint8]] = []
        self._features: list[NDArray[np.uint8]] = []
        self._n, self._bytes = 0, 0  # vectors, and bytes of their features
        self.done = 0
        # For each commit the number of its first vector, and the id that this one has.
        self._starts, self._ids = list[int](), list[int]()

    def append(self, batch: ArrayLike) -> None:
        """Encode vectors (n, d); those of a complete segment are added."""
        encoded = self._index.encoded(batch)
        if encoded.codec is not self._codec:
            self.commit()
        self._codec = encoded.codec
        self._codes.append(encoded.codes)
        if encoded.features is not None:
            self._features.append(encoded.features)
            self._bytes += encoded.features.nbytes
        self._n += len(encoded.codes)
        if self._n >= SEGMENT_SIZE or self._bytes >= SEGMENT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Add what is encoded."""
        n = self._n
        if not n:
            return
        collection = self._index.collection
        own = None if self._labels is None else self._labels[self.done :][:n]
        codes, codec, kept = np.concatenate(self._codes), self._codec, collection.feature_codec
        if kept is None:
            collection.add(codes, own, codec=codec)
        else:
            assert codec is not None
            features = np.concatenate(self._features)
            self._index.add_encoded(EncodedVectors.from_kept(codec, codes, features, kept), own)
        self._starts.append(self.done)
        self._ids.append(collection.view().next_id - n)
        self._codes, self._features, self._n, self._bytes = [], [], 0, 0
        self.done += n

    def extent(self, start: int, stop: int) -> tuple[int, int]:
        """Lowest and highest id of added vectors, by their numbers from ``start`` to ``stop``."""
        if self._labels is not None:
            own = self._labels[start:stop]
            return int(own.min()), int(own.max())
        return self._id(start), self._id(stop - 1)

    def _id(self, number: int) -> int:
        """The id of a vector, where ids are counted on."""
        commit = bisect_right(self._starts, number) - 1
        return self._ids[commit] + number - self._starts[commit]


def add_stream(
    index: VectorIndex,
    batches: Iterator[ArrayLike],
    ids: ArrayLike | None = None,
    attributes: Mapping[str, Any] | None = None,
    progress: ProgressLike = None,
) -> None:
    """Add the vectors of an iterator; see `VectorIndex.add`.

    Raises
    ------
    NotTrainedError, InvalidInputError, StoreError
        If a batch has no vectors (n, d), or ids or attributes are given; what was committed before
        stays.
    """
    if ids is not None or attributes is not None:
        what = "attributes" if ids is None else "ids"
        raise InvalidInputError(
            f"x is an iterator of batches and {what} are given; expected one of them; call add for "
            "each batch."
        )
    trained(index.collection.held)
    rows, given = StreamedRows(index), 0
    with as_progress(progress).phase("add", None, "vectors") as phase:
        for batch in batches:
            vectors = as_features(batch, index.d, first_row=given)
            given += len(vectors)
            if len(vectors):
                rows.append(vectors)
            phase.advance(len(vectors))
        rows.commit()
