"""`codeword_disks`: the codewords of each subspace on a disk, with how many rows use them.

On the disk of a hyperbolic subspace, which is the Poincaré disk of its curvature, the distance of a
codeword to the centre is exact, and the angle is a projection: that of its tangent vector in the
plane of the two directions in which the codewords differ most. So two codewords that lie together
may be far apart in the other directions. `shown` says how much of the codewords the plane has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codec.config import AdditiveConfig, BalancedConfig, CodecConfig, PQConfig
from hyperpq.codec.stored_codec import StoredCodec
from hyperpq.codec.stored_weights import PARTS
from hyperpq.codes import unpack
from hyperpq.inference.spaces import SPACES

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

# Rows whose codes are counted at once.
_BATCH = 1 << 16


@dataclass(frozen=True, eq=False)
class CodewordDisk:
    """The K codewords of one subspace on the unit disk.

    Attributes
    ----------
    m : int
        Number of the subspace, from 0.
    geometry : {"lorentz", "sphere", "euclidean"}
        Its space.
    kind : {"product", "plain", "additive"}
        Which vectors the codewords are: tangent vectors of a subspace, a part of the feature's
        coordinates, or vectors whose sum over all m is the vector of a row.
    curvature : float
        Below 0 for hyperbolic space, above 0 for a sphere, 0 for flat space.
    positions : ndarray, shape (K, 2), float64
        Where they are shown. The length is exact, and says the distance to the centre:
        ``tanh(sqrt(-curvature) d / 2)`` in hyperbolic space (Poincaré disk),
        ``tan(sqrt(curvature) d / 2)`` on a sphere (stereographic projection, a half sphere), and
        ``d`` by the largest one in flat space. The angle is a projection.
    distances : ndarray, shape (K,), float64
        d, the distance of each codeword to the centre: the origin, or the mean of the codewords
        where they are ``plain``.
    usage : ndarray, shape (K,), int64
        Rows of the index that use each.
    shown : float
        Share of the variance of the codewords that the plane has, from 0 to 1.
    """

    m: int
    geometry: str
    kind: str
    curvature: float
    positions: NDArray[np.float64]
    distances: NDArray[np.float64]
    usage: NDArray[np.int64]
    shown: float

    @property
    def used(self) -> int:
        """Codewords that some row uses."""
        return int((self.usage > 0).sum())

    @property
    def entropy(self) -> float:
        """Entropy of the codes in bits; ``log2(K)`` if all codewords are used equally often."""
        p = self.usage[self.usage > 0] / max(1, self.usage.sum())
        return max(0.0, -float((p * np.log2(p)).sum()))

    @property
    def perplexity(self) -> float:
        """How many codewords, all used equally often, have this entropy."""
        return float(2**self.entropy)

    def to_json(self) -> dict[str, Any]:
        """The disk as JSON types."""
        return {
            "m": self.m,
            "geometry": self.geometry,
            "kind": self.kind,
            "curvature": self.curvature,
            "positions": [[round(x, 5), round(y, 5)] for x, y in self.positions.tolist()],
            "distances": [round(d, 5) for d in self.distances.tolist()],
            "usage": self.usage.tolist(),
            "shown": self.shown,
            "used": self.used,
            "entropy": self.entropy,
            "perplexity": self.perplexity,
        }


def codeword_disks(view: IndexView) -> list[CodewordDisk]:
    """The codewords of each subspace, or of each of the M codebooks whose codewords add up.

    Parameters
    ----------
    view : IndexView
        The index at one moment, as `HiHPQIndex.view` returns it. All codes are read once.

    Raises
    ------
    NotTrainedError
        If the index has no codec.
    """
    usage = codeword_usage(view)
    held = view.rows.held
    assert held is not None  # `codeword_usage` needs it, too
    books = _codebooks(StoredCodec.read(held.files()))
    return [_disk(m, book, own) for m, (book, own) in enumerate(zip(books, usage, strict=True))]


def codeword_usage(view: IndexView) -> NDArray[np.int64]:
    """How many rows use each codeword: shape (M, K), each line adds up to the rows.

    Raises
    ------
    NotTrainedError
        If the index has no codec.
    """
    coder = view.coder
    K = 1 << coder.nbits
    usage = np.zeros((coder.M, K), np.int64)
    offsets = np.arange(coder.M) * K
    ids = view.ids
    for start in range(0, len(ids), _BATCH):
        codes = unpack(view.codes_of(ids[start : start + _BATCH]), coder.M, coder.nbits)
        usage += np.bincount((codes + offsets).ravel(), minlength=usage.size).reshape(usage.shape)
    return usage


@dataclass(frozen=True, eq=False)
class _Codebook:
    words: NDArray[np.float64]
    geometry: str
    kind: str
    c: float


def _codebooks(codec: StoredCodec) -> Iterator[_Codebook]:
    config = codec.config
    if isinstance(config, BalancedConfig):
        for part in PARTS:
            yield from _codebooks(codec.parts[part])
        return
    books = codec.weights["quantizer.codebooks"].astype(np.float64)
    if isinstance(config, CodecConfig):
        c = np.exp(codec.weights["quantizer.log_c"].astype(np.float64))
        clipped = SPACES[config.geometry].clip(books, config.max_norm, c[:, None])
        for own, curvature in zip(clipped, c.tolist(), strict=True):
            yield _Codebook(own, config.geometry, "product", curvature)
    elif isinstance(config, AdditiveConfig):
        # The last coordinate is no part of the vector, see `AdditiveQuantizer`.
        yield from (_Codebook(own[:, :-1], "euclidean", "additive", 0.0) for own in books)
    else:
        assert isinstance(config, PQConfig)
        for own in books:
            yield _Codebook(own - own.mean(0), "euclidean", "plain", 0.0)


def _disk(m: int, book: _Codebook, usage: NDArray[np.int64]) -> CodewordDisk:
    words, c = book.words, book.c
    distances = np.linalg.norm(words, axis=1)
    if book.geometry == "lorentz":
        radii, curvature = np.tanh(np.sqrt(c) * distances / 2), -c
    elif book.geometry == "sphere":
        radii, curvature = np.tan(np.minimum(np.sqrt(c) * distances, np.pi / 2) / 2), c
    else:
        radii, curvature = distances / (distances.max() or 1.0), 0.0
    plane, shown = _plane(words)
    lengths = np.linalg.norm(plane, axis=1, keepdims=True)
    # A codeword at the centre, or straight above it, has no direction; the first one stands in.
    angles = np.where(lengths > 0, plane / np.where(lengths > 0, lengths, 1), [1.0, 0.0])
    return CodewordDisk(
        m, book.geometry, book.kind, curvature, angles * radii[:, None], distances, usage, shown
    )


def _plane(words: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Coordinates (K, 2) in the two principal directions, and their share of the variance.

    The directions are of the vectors from the centre, so the centre of the disk is theirs.
    """
    if words.shape[1] == 1:
        return np.concatenate([words, np.zeros_like(words)], 1), 1.0
    values, vectors = np.linalg.eigh(words.T @ words)
    two = vectors[:, :-3:-1]
    # The sign of an eigenvector is arbitrary.
    two = two * np.where(two[np.abs(two).argmax(0), [0, 1]] > 0, 1, -1)
    total = float(values.sum())
    return words @ two, float(values[-2:].sum()) / total if total > 0 else 1.0
