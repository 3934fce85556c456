"""Rows of one collection on their way into another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.index.encoded import recoded
from hyperpq.index.row_changes import MAX_ID
from hyperpq.index.searcher import trained
from hyperpq.store import Rows
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.codec.feature_codec import FeatureCodec
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.view import RowView


@dataclass(frozen=True, eq=False)
class MovedRows:
    """Rows of another collection, as one that keeps features in some way takes them.

    Attributes
    ----------
    source : RowView
        The rows.
    add_id : int
        Number added to their ids.
    ids : ndarray, shape (n,), int64
        Their ids in ``source``, ascending.
    kept_as : FeatureCodec or None
        How the other collection keeps features.
    """

    source: RowView
    add_id: int
    ids: NDArray[np.int64]
    kept_as: FeatureCodec | None

    @classmethod
    def of(cls, source: RowView, add_id: int, kept_as: FeatureCodec | None) -> MovedRows:
        """The rows, once it is checked that they can be taken.

        Raises
        ------
        InvalidInputError
            Their ids would leave the range, or they lack features.
        """
        add_id, ids = as_count(add_id, "add_id", -MAX_ID), source.ids
        if len(ids) and not 0 <= int(ids[0]) + add_id <= int(ids[-1]) + add_id <= MAX_ID:
            raise InvalidInputError(
                f"add_id is {add_id}, with which ids of other would leave 0 to 2**63 - 1; expected "
                "another one."
            )
        if kept_as is not None and source.feature_codec is None:
            raise InvalidInputError(
                f"other keeps no features; expected features of the kind {kept_as.kind!r}, which "
                "this index keeps; add its vectors instead."
            )
        return cls(source, add_id, ids, kept_as)

    def batches(self, codec: IndexCodec | None, *, encode_anew: bool) -> Iterator[Rows]:
        """The rows with their new ids; their codes are made anew by a codec that is another one."""
        if not encode_anew and self.kept_as in (None, self.source.feature_codec):
            batches = self.source.batches(features=self.kept_as is not None)
        else:
            assert codec is not None
            kept = self.source.batches(features=True)
            batches = recoded(kept, codec, self.source.kept_by(), keep=self.kept_as)
        for rows in batches:
            ids = rows.ids + self.add_id
            yield Rows(rows.codes, ids, rows.attributes, rows.path_strings, rows.features)
            del rows


def must_encode_anew(codec: IndexCodec, rows: RowView, other: RowView, d: int) -> bool:
    """Whether rows of another codec are to be encoded by this one, from their kept features.

    Parameters
    ----------
    codec : IndexCodec
        The codec of the index that takes the rows.
    rows : RowView
        The rows of that index.
    other : RowView
        The rows that it takes.
    d : int
        Width of its vectors.

    Raises
    ------
    NotTrainedError
        The other rows have no codec.
    InvalidInputError
        They have another codec, and keep no features of this width and of the same network.
    """
    why = codec.difference(trained(other.held))
    if not why:
        return False
    if other.feature_codec is None or other.feature_codec.d != d:
        raise InvalidInputError(
            f"other cannot be merged: {why}; expected the same codec in both; train once."
        )
    # Rows of one codec have features of one network, whether or not it is recorded.
    if other.tuned != rows.tuned:
        raise InvalidInputError(
            "other cannot be merged: its features are of a network with other fine-tuned "
            "weights; expected those of this index; build other with the codec of this "
            "index (hyperpq build --codec), which takes its network, too."
        )
    return True
