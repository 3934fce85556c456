"""`IndexStats`: how many rows an index has and how much space they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperpq.store import Segment
from hyperpq.store.columns import datasets_of
from hyperpq.store.rows import Rows
from hyperpq.store.shard import Shard


@dataclass(frozen=True)
class IndexStats:
    """Sizes of an index at one moment.

    Bytes are those of the stored columns, deleted rows included: in memory for an index in memory,
    else in the files of its directory, without headers, manifest and codec.

    Attributes
    ----------
    rows : int
        Number of vectors.
    deleted_rows : int
        Deleted rows that take space until `HiHPQIndex.compact` drops them.
    segments : int
        Segments that the rows are stored in.
    code_size : int
        Bytes of one code.
    next_id : int
        Id of the next vector that is added without an id.
    attributes : tuple of str
        Names of the attribute columns, sorted.
    code_bytes, id_bytes, attribute_bytes, path_bytes, feature_bytes : int
        Bytes of the columns. Codes are padded to whole blocks in a directory. A search reads no
        features.
    snapshot : int
        Number of the snapshot of the directory, which each change raises by one; 0 in memory.
    path : Path or None
        The directory; None in memory.
    """

    rows: int
    deleted_rows: int
    segments: int
    code_size: int
    next_id: int
    attributes: tuple[str, ...]
    code_bytes: int
    id_bytes: int
    attribute_bytes: int
    path_bytes: int
    feature_bytes: int = 0
    snapshot: int = 0
    path: Path | None = None

    @property
    def nbytes(self) -> int:
        """All bytes of the rows."""
        columns = self.code_bytes, self.id_bytes, self.attribute_bytes, self.path_bytes
        return sum(columns) + self.feature_bytes


def column_bytes(segments: Sequence[Segment]) -> dict[str, int]:
    """Bytes of the columns of some segments, by the fields of `IndexStats`; none is read."""
    total = dict.fromkeys((*_FIELDS.values(), "attribute_bytes"), 0)
    for segment in segments:
        for name, size in _sizes(segment).items():
            total[_FIELDS.get(name, "attribute_bytes")] += size
    return total


_FIELDS = {
    "codes": "code_bytes",
    "places": "code_bytes",
    "cell_starts": "code_bytes",
    "ids": "id_bytes",
    "path_offsets": "path_bytes",
    "path_bytes": "path_bytes",
    "features": "feature_bytes",
}


def _sizes(segment: Segment) -> Mapping[str, int]:
    """Bytes of each dataset of a segment, see `store.shard.write_shard`."""
    if isinstance(segment, Shard):
        return {name: extent.nbytes for name, extent in segment.entry.columns.items()}
    assert isinstance(segment, Rows)
    sizes = {name: data.nbytes for name, data in datasets_of(segment.attributes).items()}
    paths = segment.path_strings
    if paths is not None:
        sizes |= {"path_offsets": paths.offsets.nbytes, "path_bytes": paths.blob.nbytes}
    if segment.features is not None:
        sizes["features"] = segment.features.nbytes
    if (grouping := segment.grouping) is not None:
        sizes |= {"places": grouping.places.nbytes, "cell_starts": grouping.starts.nbytes}
    return sizes | {"codes": segment.codes.nbytes, "ids": segment.ids.nbytes}
