"""Codes and codebooks from FAISS and back: `from_faiss`, `to_faiss`, `write_faiss`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyperpq.codec.base import Codec
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.geometry.lorentz_chord import time_part
from hyperpq.quantizers.flat_pq import FlatMetric
from hyperpq.quantizers.kmeans import import_faiss
from hyperpq.utils.files import atomic_write
from hyperpq.utils.validation import as_codes, as_ids

WAYS = ("auto", "chord", "tables")
# What FAISS has where there is no result, up to its sign.
_NONE = np.finfo(np.float32).max


def from_faiss(index: Any) -> tuple[PQCodec, NDArray[np.uint8], NDArray[np.int64]]:
    """Codebooks, codes and ids of a FAISS index.

    Its vectors are searched as ``IndexPQ`` does by default: all codes, by tables of the query.

    Parameters
    ----------
    index : faiss.IndexPQ
        Trained, metric L2 or inner product, 8 or 4 bits; also inside ``faiss.IndexIDMap`` or
        ``IndexIDMap2``. An object, not a file: FAISS's reader is not made for files of strangers.

    Returns
    -------
    codec : PQCodec
        On the CPU.
    codes : ndarray, shape (n, code_size), uint8
        Packed as `codes.pack` says.
    ids : ndarray, shape (n,), int64
        Those of the map, or 0 to n - 1.

    Raises
    ------
    InvalidInputError
        Another index, or ids that are negative or repeated.
    MissingDependencyError
        faiss isn't installed.
    """
    faiss = import_faiss()
    inner, ids = index, None
    if isinstance(index, faiss.IndexIDMap):
        ids, inner = faiss.vector_to_array(index.id_map), faiss.downcast_index(index.index)
    name = type(inner).__name__
    if isinstance(inner, faiss.IndexPreTransform):
        raise InvalidInputError(
            "index is a faiss IndexPreTransform, whose transform hyperpq doesn't take; pass "
            "faiss.downcast_index(index.index), and index.chain.at(i).apply(x) in place of x."
        )
    if not isinstance(inner, faiss.IndexPQ):
        raise InvalidInputError(
            f"index is a {name}; expected a faiss.IndexPQ, alone or in a faiss.IndexIDMap."
        )
    metrics: dict[int, FlatMetric] = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "ip"}
    pq = inner.pq
    if not inner.is_trained or inner.metric_type not in metrics or pq.nbits not in (4, 8):
        raise InvalidInputError(
            f"index is an {name} with metric {inner.metric_type} and {pq.nbits} bits, "
            f"{'trained' if inner.is_trained else 'not trained'}; expected a trained one with "
            "METRIC_L2 or METRIC_INNER_PRODUCT and 8 or 4 bits."
        )
    words = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    codec = PQCodec.from_codebooks(words, metric=metrics[inner.metric_type])
    n = inner.ntotal
    codes = faiss.vector_to_array(inner.codes).reshape(n, codec.code_size)
    if pq.nbits == 4 and pq.M % 2:
        codes[:, -1] &= 15
    return codec, codes, as_ids(np.arange(n) if ids is None else ids, n)


@dataclass(frozen=True, eq=False)
class FaissExport:
    """A FAISS index that searches our codes, and the way to it and back.

    ``D, I = export.index.search(export.queries(x), k)`` finds what hyperpq finds, equal scores
    aside, and ``export.distances(D)`` are hyperpq's scores. It is for searching: vectors are added
    by their codes, not by ``index.add``.

    Attributes
    ----------
    index : faiss.IndexIDMap2
        Over an ``IndexPQ``.
    codec : Codec
        Makes the queries.
    way : {"plain", "chord", "tables"}
        See `to_faiss`; ``plain`` are the codebooks of a `PQCodec`, whose queries are the vectors.
    """

    index: Any
    codec: Codec
    way: str

    def queries(self, x: Any) -> NDArray[np.float32]:
        """Features -> what ``index`` is asked with.

        Parameters
        ----------
        x : array_like, shape (nq, d)

        Returns
        -------
        ndarray, shape (nq, index.d), float32

        Raises
        ------
        InvalidInputError
            See `validation.as_features`.
        """
        if isinstance(self.codec, PQCodec):
            return self.codec.embed(x)
        if self.way == "tables":
            return -self.codec.tables(x).reshape(-1, self.index.d)
        assert isinstance(self.codec, HiHPQCodec)
        q = self.codec.quantizer
        tangent = torch.from_numpy(self.codec.embed(x)).unflatten(1, (q.M, q.D))
        with torch.inference_mode():
            points = _with_time(q.points(tangent.to(self.codec.device)), q.c)
            # Negated time and a factor of 2: the inner product is -q^2 - 2/c.
            points[..., :-1] *= 2
            points[..., -1] *= -2
        return points.flatten(1).cpu().numpy()

    def distances(self, D: Any) -> NDArray[np.float32]:
        """Scores as `HiHPQIndex.search` gives them, of FAISS's values.

        Parameters
        ----------
        D : array_like, any shape
            What ``index`` answered.

        Returns
        -------
        ndarray, same shape, float32
            Smaller is nearer; +inf where there was no result. By ``chord`` they have an absolute
            error of about ``2^-24`` times the sum of the time parts' products.
        """
        values = np.asarray(D, np.float32)
        offset = 0.0
        if isinstance(self.codec, HiHPQCodec) and self.way == "chord":
            offset = float((2 / self.codec.quantizer.c.detach().double()).sum())
        plain = isinstance(self.codec, PQCodec) and self.codec.quantizer.metric == "l2"
        scores = values if plain else (-values.astype(np.float64) - offset).astype(np.float32)
        return np.where(np.abs(values) == _NONE, np.float32(np.inf), scores)


def to_faiss(codec: Codec, codes: Any, ids: Any, *, how: str = "auto") -> FaissExport:
    """A FAISS index of codes, searched with the scores of their codec.

    Parameters
    ----------
    codec : Codec
        What the codes were made by.
    codes : array_like, shape (n, code_size), uint8
        Packed rows.
    ids : array_like, shape (n,)
        Distinct, not negative.
    how : {"auto", "chord", "tables"}
        How a metric of `HiHPQCodec` becomes an inner product. ``chord``, for that metric: codewords
        and queries are (space, time) of points on the hyperboloid, and the index has
        d' = M (D + 1). ``tables``, for every metric: codewords are unit vectors and queries are
        tables, d' = M K. ``auto`` takes the former where it can. Codes of a `PQCodec` go over as
        they are.

    Raises
    ------
    InvalidInputError, NotTrainedError
    MissingDependencyError
        faiss isn't installed.
    """
    faiss = import_faiss()
    words: torch.Tensor
    if how not in WAYS:
        raise InvalidInputError(f"how is {how!r}; choose one of {', '.join(WAYS)}.")
    if not codec.is_trained:
        raise NotTrainedError("the codec isn't trained; train it or load a trained one.")
    rows = as_codes(codes, codec.code_size)
    labels = as_ids(ids, len(rows))
    metric = faiss.METRIC_INNER_PRODUCT
    if isinstance(codec, PQCodec):
        if how != "auto":
            raise InvalidInputError(
                f"how is {how!r}, but a PQCodec has no other way; leave it out."
            )
        way, words = "plain", codec.quantizer.codebooks
        metric = faiss.METRIC_L2 if codec.quantizer.metric == "l2" else metric
    else:
        if isinstance(codec, HiHPQCodec) and _has_inner_product(codec) and how != "tables":
            way, words = "chord", _chord_words(codec)
        elif how == "chord":
            raise InvalidInputError(
                f"how is 'chord', but the codec has the metric {codec.metric!r}; take how='tables'."
            )
        else:
            way, words = "tables", _unit_words(codec)
    M, K, D = words.shape
    inner = faiss.IndexPQ(M * D, M, K.bit_length() - 1, metric)
    faiss.copy_array_to_vector(words.cpu().numpy().ravel(), inner.pq.centroids)
    outer = faiss.IndexIDMap2(inner)  # takes an empty index only
    inner.is_trained = outer.is_trained = True
    faiss.copy_array_to_vector(rows.ravel(), inner.codes)
    faiss.copy_array_to_vector(labels, outer.id_map)
    inner.ntotal = outer.ntotal = len(rows)
    outer.construct_rev_map()
    return FaissExport(outer, codec, way)


def write_faiss(export: FaissExport, path: str | os.PathLike[str]) -> None:
    """Write the index of an export as a file for ``faiss.read_index``, whole or not at all.

    Raises
    ------
    StoreError
        The system refuses; what was at ``path`` is still there.
    """
    atomic_write(path, import_faiss().serialize_index(export.index).tobytes())


def _with_time(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Space parts (..., D) with the time part behind them, right to the last digit of float32."""
    time = time_part(x.double(), c.double()).to(x.dtype)
    return torch.cat([x, time.unsqueeze(-1)], -1)


def _has_inner_product(codec: HiHPQCodec) -> bool:
    """Whether the metric is an inner product of points that have a time part."""
    return codec.config.geometry == "lorentz" and codec.config.metric == "chord"


@torch.no_grad()
def _chord_words(codec: HiHPQCodec) -> torch.Tensor:
    """Codewords (M, K, D + 1) as points with their time part."""
    q = codec.quantizer
    return _with_time(q.codewords(), q.c[:, None])


def _unit_words(codec: Codec) -> torch.Tensor:
    """Unit vectors (M, K, K), which take one entry each out of a table."""
    K = codec.quantizer.K
    return torch.eye(K).expand(codec.quantizer.M, K, K)
