"""`RowView`: rows of a collection at one moment, selected by ids and filters, and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codes import CodeSegment
from hyperpq.errors import InvalidInputError
from hyperpq.filters.hints import UnknownValue
from hyperpq.filters.selectors import SearchParameters, as_parameters
from hyperpq.filters.where import Where
from hyperpq.index import lookup, selection
from hyperpq.index.directory import (
    DirectoryReference,
    codec_of,
    kept_code_size,
    kept_features,
    kept_recall,
    kept_training,
    kept_tuned,
)
from hyperpq.index.path_map import PathMap
from hyperpq.index.stats import column_bytes
from hyperpq.scan.scanner import CpuScanner, Scanner
from hyperpq.store import Categories, IndexStore, Rows, Segment, Store, live_batches
from hyperpq.utils.validation import as_ids

if TYPE_CHECKING:
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.codec.base import Codec
    from hyperpq.codec.feature_codec import FeatureCodec
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.recall import RecallCurve
    from hyperpq.index.training_record import TrainingRecord

# Rows of a batch unless told otherwise.
_BATCH = 1 << 20
# Rows whose features are read at once.
_FEATURE_BATCH = 1 << 13


class RowView:
    """The rows of a `Collection` as they were when `Collection.view` was called; read-only.

    Several reads of one view agree with each other, whatever other threads change meanwhile. No row
    is copied for it.

    Attributes
    ----------
    code_size : int
        Bytes of one code.
    feature_codec : FeatureCodec or None
        How the rows keep their features; None if they keep none.
    scanner : Scanner
        What scans their codes, a `CpuScanner` unless given.
    """

    def __init__(
        self,
        code_size: int,
        store: Store,
        codec: IndexCodec | None = None,
        feature_codec: FeatureCodec | None = None,
        training: TrainingRecord | None = None,
        scanner: Scanner | None = None,
        *,
        tuned: TunedWeights | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.code_size, self.feature_codec = code_size, feature_codec
        self.scanner: Scanner = CpuScanner() if scanner is None else scanner
        self._store, self._codec, self._training = store, codec, training
        self._tuned, self._metadata = tuned, metadata or {}

    def __getstate__(self) -> dict[str, Any]:
        store = self._store
        if not isinstance(store, IndexStore):
            return self.__dict__
        # Of rows in a directory their place, as mapped files cannot be pickled.
        return {"code_size": self.code_size, "reference": DirectoryReference.of(store)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        reference = state.pop("reference", None)
        if reference is None:
            self.__dict__ |= state
            return
        store = reference.open()
        size = kept_code_size(store, state["code_size"])
        RowView.__init__(self, size, store, feature_codec=kept_features(store))

    @property
    def held(self) -> IndexCodec | None:
        """The codec that made the codes, as an index holds it; None for rows without one."""
        if self._codec is None and isinstance(self._store, IndexStore):
            self._codec = codec_of(self._store)
        return self._codec

    @property
    def codec(self) -> Codec | None:
        """The same in PyTorch."""
        held = self.held
        return None if held is None else held.module

    @property
    def training(self) -> TrainingRecord | None:
        """What the codec was learned from; None if it was given, or no features are kept."""
        if isinstance(self._store, IndexStore):
            return kept_training(self._store)
        return self._training

    @property
    def is_stored(self) -> bool:
        """Whether the rows are those of a directory."""
        return isinstance(self._store, IndexStore)

    @property
    def recall_curve(self) -> RecallCurve | None:
        """What was measured of the cells and stored with them; None in memory."""
        return kept_recall(self._store) if isinstance(self._store, IndexStore) else None

    @property
    def tuned(self) -> TunedWeights | None:
        """What fine-tuning changed in the network of the vectors; None if nothing.

        In a directory it is read from its file in each call.
        """
        if isinstance(self._store, IndexStore):
            return kept_tuned(self._store)
        return self._tuned

    @property
    def metadata(self) -> Mapping[str, Any]:
        """JSON values of the caller, see `Collection.metadata`; not to be changed.

        It is the same object for all views of one snapshot.
        """
        if isinstance(self._store, IndexStore):
            stored: Mapping[str, Any] = self._store.manifest.settings.get("metadata", {})
            return stored
        return self._metadata

    def __len__(self) -> int:
        return self.ntotal

    def __contains__(self, id: object) -> bool:
        """Whether there is a row with an id; nothing but an integer can be one."""
        if isinstance(id, np.ndarray) and id.ndim:
            raise InvalidInputError(
                f"id is {id!r}; expected an integer; for several ids use np.isin(ids, rows.ids)."
            )
        if not isinstance(id, (int, np.integer)) or isinstance(id, (bool, np.timedelta64)):
            return False
        if not 0 <= id <= np.iinfo(np.int64).max:
            return False
        return any(True for _ in self._store.find(np.array([id], np.int64)))

    def __iter__(self) -> Iterator[int]:
        """The ids, ascending."""
        return iter(self.ids.tolist())

    @property
    def ntotal(self) -> int:
        """Number of rows."""
        return self._store.ntotal

    @property
    def n_deleted(self) -> int:
        """Number of deleted rows that take space until `Collection.compact` drops them."""
        return self._store.n_deleted

    @property
    def n_segments(self) -> int:
        """Number of segments that the rows are stored in."""
        return len(self._store.segments)

    @property
    def next_id(self) -> int:
        """Id of the next row that is added without an id."""
        return self._store.next_id

    @property
    def segments(self) -> Sequence[Segment]:
        """The rows as they are stored, deleted ones included."""
        return self._store.segments

    @cached_property
    def path_map(self) -> PathMap:
        """How stored paths are shown: images may have moved together with their folder."""
        return PathMap.of(self._store)

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        segments = self._store.segments
        return segments[0].attribute_names if segments else []

    @property
    def schema(self) -> dict[str, str]:
        """Kind of each attribute column, see `columns.kind_of`; ``path`` too if there are paths."""
        segments = self._store.segments
        return dict(segments[0].schema) if segments else {}

    def categories_of(self, name: str) -> list[str]:
        """The distinct strings of a column of categories, sorted; also those of deleted rows."""
        found: set[str] = set()
        for segment in self._store.segments:
            column = segment.attribute(name)
            if isinstance(column, Categories):
                found.update(column.labels)
        return sorted(found)

    def column_bytes(self) -> dict[str, int]:
        """Bytes of the columns, see `IndexStats`; none is read."""
        return column_bytes(self._store.segments)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of all rows, shape (ntotal,), int64, ascending."""
        return self.select()

    def select(
        self, params: SearchParameters | None = None, where: str | Where | None = None
    ) -> NDArray[np.int64]:
        """Ids of the rows that both arguments select, see `HiHPQIndex.search`.

        Returns
        -------
        ndarray, shape (n,), int64
            Ascending.
        """
        given = as_parameters(params, where)
        return selection.selected_ids(self._store.segments, given, self.path_map)

    def ids_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of the rows at some positions, ascending, in the order in which they are stored."""
        return selection.ids_at(self._store.segments, positions)

    def unknown_values(self, where: str | Where) -> list[UnknownValue]:
        """Texts that a condition compares with categories and that no row has: probably mistakes.

        Values that only deleted rows have may count as known.
        """
        condition = Where(where) if isinstance(where, str) else where
        return selection.values_of_no_row(self._store.segments, condition)

    def code_segments(
        self, params: SearchParameters | None = None, where: str | Where | None = None
    ) -> list[CodeSegment]:
        """The rows that both arguments select, as the scan reads them.

        Segments without such a row are left out. Codes are not copied.
        """
        given = as_parameters(params, where)
        if given.sel is None and given.where is None:
            return [segment.scanned() for segment in self._store.segments]
        return selection.selected_codes(self._store.segments, given, self.path_map)

    def first_code_segments(self, n: int) -> list[CodeSegment]:
        """The first n rows, in the order in which they are stored, as the scan reads them."""
        return selection.first_codes(self._store.segments, n)

    def codes_of(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Codes (n, code_size) of the rows with some ids, in their order.

        Raises
        ------
        UnknownIdError
            If there is no row with one of the ids.
        """
        return lookup.codes_at(self._store, as_ids(ids, None, distinct=False), self.code_size)

    def features_of(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Features (n, d) float32 of the rows with some ids, in their order, as they are kept.

        Raises
        ------
        UnknownIdError
            If there is no row with one of the ids.
        InvalidInputError
            If the rows keep no features.
        """
        read_by = self.kept_by()
        labels = as_ids(ids, None, distinct=False)
        out = np.empty((len(labels), read_by.d), np.float32)
        for features, rows, positions in self.features_at(labels):
            for start in range(0, len(rows), _FEATURE_BATCH):
                some = slice(start, start + _FEATURE_BATCH)
                out[positions[some]] = read_by.decode(features[rows[some]])
        return out

    def features_at(
        self, ids: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]]:
        """Where the kept features of the rows with some ids lie; none is read.

        Parameters
        ----------
        ids : ndarray, shape (n,), int64
            Ids of rows that keep features.

        Returns
        -------
        list of (features, rows, positions)
            For each segment with any of them its features (n_rows, size) uint8, and of which rows
            (m,) and for which of the ids (m,) they are asked for.

        Raises
        ------
        UnknownIdError
            If there is no row with one of the ids.
        """
        return lookup.features_at(self._store, ids)

    def kept_by(self) -> FeatureCodec:
        """How the rows keep their features.

        Raises
        ------
        InvalidInputError
            If they keep none.
        """
        if self.feature_codec is None:
            raise InvalidInputError(
                "the index keeps no features; expected one that does; make it with "
                "HiHPQIndex(d, features='int8') or hyperpq build."
            )
        return self.feature_codec

    def paths_of(self, ids: ArrayLike) -> list[bytes]:
        """Paths of the rows with some ids, in their order; no other path is read.

        Raises
        ------
        UnknownIdError
            If there is no row with one of the ids.
        InvalidInputError
            If the rows have no paths.
        """
        return lookup.paths_at(self._store, as_ids(ids, None, distinct=False), self.path_map)

    def attributes_of(self, ids: ArrayLike) -> dict[str, NDArray[Any]]:
        """Attributes of the rows with some ids, see `HiHPQIndex.attributes_of`."""
        labels = as_ids(ids, None, distinct=False)
        return lookup.attributes_at(self._store, labels, self.attribute_names)

    def batches(self, size: int = _BATCH, *, features: bool = False) -> Iterator[Rows]:
        """All rows in batches, one after another copied into memory.

        Parameters
        ----------
        size : int
            Rows of a batch at most.
        features : bool
            Whether kept features are read. Batches are then smaller if features are large.

        Yields
        ------
        Rows
            With ``ids``, ``codes`` (n, code_size), ``paths``, ``attributes``, and ``features`` as
            bytes if they are asked for.
        """
        batches = live_batches(self._store.segments, size, features=features)
        return batches if self.path_map.is_identity else map(self._shown, batches)

    def _shown(self, rows: Rows) -> Rows:
        """Rows with their paths as they are shown."""
        if rows.path_strings is None:
            return rows
        paths = self.path_map.shown_strings(rows.path_strings)
        return Rows(rows.codes, rows.ids, rows.attributes, paths, rows.features, rows.cells)
