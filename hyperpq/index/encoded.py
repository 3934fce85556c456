"""Vectors on their way to becoming rows: with their codes, and as the bytes that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.progress import Phase, ProgressLike, as_progress
from hyperpq.store import Rows

if TYPE_CHECKING:
    from hyperpq.codec.feature_codec import FeatureCodec
    from hyperpq.index.index_codec import IndexCodec

# Vectors that are encoded between two reports of progress.
_BATCH = 1 << 13


@dataclass(frozen=True, eq=False)
class EncodedVectors:
    """Vectors with their codes, to be added by `HiHPQIndex.add_encoded`.

    `HiHPQIndex.encoded` makes them. The vectors are there, too, so that they can be encoded anew if
    another codec has taken the place of ``codec`` before they are added.

    Attributes
    ----------
    codec : IndexCodec
        The codec that made the codes.
    codes : ndarray, shape (n, code_size), uint8
        The codes.
    features : ndarray, shape (n, feature_size), uint8, or None
        The vectors as an index keeps them; None for an index that keeps none.
    """

    codec: IndexCodec
    codes: NDArray[np.uint8]
    features: NDArray[np.uint8] | None
    _feature_codec: FeatureCodec | None
    # Where no features are kept.
    _vectors: NDArray[np.float32] | None

    @classmethod
    def of(
        cls,
        x: NDArray[np.float32],
        codec: IndexCodec,
        feature_codec: FeatureCodec | None,
        progress: ProgressLike = None,
    ) -> EncodedVectors:
        """Encode vectors (n, d); codes are those of the features as they are kept."""
        if feature_codec is None:
            return cls(codec, _encode(codec, x, None, progress), None, None, x)
        kept = feature_codec.encode(x)
        return cls(codec, _encode(codec, kept, feature_codec, progress), kept, feature_codec, None)

    @classmethod
    def from_kept(
        cls,
        codec: IndexCodec,
        codes: NDArray[np.uint8],
        features: NDArray[np.uint8],
        feature_codec: FeatureCodec,
    ) -> EncodedVectors:
        """Codes of features as they are kept, by a codec, such as those of several batches."""
        return cls(codec, codes, features, feature_codec, None)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> EncodedVectors:
        """Some of the vectors, by a slice, a mask or numbers."""
        return replace(
            self,
            codes=self.codes[rows],
            features=None if self.features is None else self.features[rows],
            _vectors=None if self._vectors is None else self._vectors[rows],
        )

    def by(self, codec: IndexCodec) -> EncodedVectors:
        """These vectors with their codes by a codec, encoded anew unless it made the codes."""
        if codec is self.codec:
            return self
        source = self._vectors if self.features is None else self.features
        assert source is not None
        return replace(self, codec=codec, codes=_encode(codec, source, self._feature_codec))


def recoded(
    batches: Iterable[Rows],
    codec: IndexCodec,
    feature_codec: FeatureCodec,
    *,
    keep: FeatureCodec | None,
    progress: ProgressLike = None,
    total: int | None = None,
) -> Iterator[Rows]:
    """Rows with the codes of their kept features by a codec.

    Parameters
    ----------
    batches : iterable of Rows
        Rows with features; one batch at a time is asked for.
    codec : IndexCodec
        What encodes.
    feature_codec : FeatureCodec
        What the features are read by.
    keep : FeatureCodec or None
        How features are kept from then on; None leaves them out.
    progress : Progress or bool, optional
        Where to report.
    total : int, optional
        Number of rows, for the report.

    Yields
    ------
    Rows
        With the ids, attributes and paths of each batch.
    """
    with as_progress(progress).phase("encode", total, "vectors") as phase:
        for rows in batches:
            features = rows.features
            if features is None or features.shape[1] != feature_codec.size:
                raise InvalidInputError(
                    f"rows have {rows.feature_size} bytes of features; expected "
                    f"{feature_codec.size}, as the index keeps them."
                )
            if keep is not None and keep != feature_codec:
                features = _converted(features, feature_codec, keep)
            codes = encode_in_batches(codec, features, keep or feature_codec, phase)
            kept = None if keep is None else features
            yield Rows(codes, rows.ids, rows.attributes, rows.path_strings, kept)
            # Only one batch is in memory.
            del rows, features, kept


def _converted(
    features: NDArray[np.uint8], old: FeatureCodec, new: FeatureCodec
) -> NDArray[np.uint8]:
    out = np.empty((len(features), new.size), np.uint8)
    for start in range(0, len(features), _BATCH):
        batch = slice(start, start + _BATCH)
        out[batch] = new.encode(old.decode(features[batch]))
    return out


def encode_in_batches(
    codec: IndexCodec, source: NDArray[Any], feature_codec: FeatureCodec | None, phase: Phase
) -> NDArray[np.uint8]:
    """Codes of vectors (n, d), or of kept features (n, feature_size), with a report of batches."""
    codes = np.empty((len(source), codec.code_size), np.uint8)
    for start in range(0, len(source), _BATCH):
        batch = source[start : start + _BATCH]
        x = batch if feature_codec is None else feature_codec.decode(batch)
        codes[start : start + len(batch)] = codec.encode(x)
        phase.advance(len(batch))
    return codes


def _encode(
    codec: IndexCodec,
    source: NDArray[Any],
    feature_codec: FeatureCodec | None,
    progress: ProgressLike = None,
) -> NDArray[np.uint8]:
    with as_progress(progress).phase("add", len(source), "vectors") as phase:
        return encode_in_batches(codec, source, feature_codec, phase)
