"""Rows of an index with another codec: `Recoding` of kept features, and `NewVectors`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hyperpq.index.encoded import encode_in_batches
from hyperpq.progress import Progress
from hyperpq.store import Rows
from hyperpq.store.segments import live_batches

if TYPE_CHECKING:
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.codec.feature_codec import FeatureCodec
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.training_record import TrainingRecord
    from hyperpq.index.view import RowView
    from hyperpq.store.manifest import FileEntry
    from hyperpq.store.shard import Shard


class NewVectors(Protocol):
    """Vectors that take the place of those of an index, see `Collection.replace_vectors`.

    Attributes
    ----------
    codec : IndexCodec
        Their codec.
    training : TrainingRecord or None
        What it was learned from.
    tuned : TunedWeights or None
        What fine-tuning changed in their network.
    """

    codec: IndexCodec
    training: TrainingRecord | None
    tuned: TunedWeights | None

    def metadata(self, former: Mapping[str, Any]) -> Mapping[str, Any]:
        """The metadata of the index, given those that it has."""

    def rows(self, former: RowView) -> Iterator[Rows]:
        """All rows of the index as they are stored, with their new codes and kept features."""


@dataclass(frozen=True)
class Recoding:
    """Codes of shards by a codec that is to replace that of their index.

    A shard never changes, so codes that are made without the lock are still those of its rows
    later. Only what others add meanwhile is left to be encoded under the lock, which keeps other
    writers waiting for 10 s at most by default.

    Attributes
    ----------
    codec : IndexCodec
        The codec.
    feature_codec : FeatureCodec
        What the features of the rows are read by.
    progress : Progress
        Where to report.
    """

    codec: IndexCodec
    feature_codec: FeatureCodec
    progress: Progress
    # By what tells a shard from one of the same number in an index that takes this one's place.
    _codes: dict[FileEntry, NDArray[np.uint8]] = field(default_factory=dict)

    def prepare(self, shards: Sequence[Shard]) -> None:
        """Encode the rows of shards, deleted ones included, unless that was done before."""
        new = [shard for shard in shards if shard.entry.content not in self._codes]
        if not new:
            return
        with self.progress.phase("encode", sum(shard.n for shard in new), "vectors") as phase:
            for shard in new:
                features = shard.features
                assert features is not None
                self._codes[shard.entry.content] = encode_in_batches(
                    self.codec, features, self.feature_codec, phase
                )

    def rows(self, shards: Sequence[Shard]) -> Iterator[Rows]:
        """The live rows of shards with their new codes, batch by batch in memory."""
        self.prepare(shards)
        for shard in shards:
            codes = self._codes[shard.entry.content]
            for rows in live_batches([shard]):
                new = codes[shard.find(rows.ids)]
                yield Rows(new, rows.ids, rows.attributes, rows.path_strings, rows.features)
                del rows
