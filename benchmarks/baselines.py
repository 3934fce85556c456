"""Baseline quantizers: what a user of FAISS could choose at the same number of bytes.

Every baseline trains on the same features, encodes the database, and returns the k nearest rows of
each query. Queries are not quantized wherever the method allows it, which is everywhere but in
`itq`. The caller normalizes the features. PCA keeps 64 dimensions, and 128 at 128 bits.

============  ======================================================================================
pq            product quantization (PQ) of all dimensions
pca_pq        PCA, random rotation, PQ. Without the rotation the first subspace has most of the
              variance, and recall is .29 instead of .32
opq           PCA, then OPQ and PQ
rq, lsq       PCA, then residual quantization (beam 16) or local search quantization. lsq solves
              for 256 M codewords at once: at 128 bits it trains for minutes, and 5,000 features are
              few for it
prq, plsq     PCA, random rotation, then residual or local search quantization of two subspaces, or
              of four at 128 bits; from 32 bits on
itq           binary codes, ranked by Hamming distance
itq_adc       the same codes, ranked by the inner product of the query with the signs
rabitq        PCA to as many dimensions as bits, random rotation, one sign for each. Its codes are 8
              bytes longer than all others, since two floats are stored beside the signs
tangent_pq    the start of hyperpq's own codec before any learning: PCA, whose components go to the
              subspaces in turn, k-means in the tangent space, hyperbolic ADC
tangent_opq   the same, with the rotation of OPQ instead of components in turn
============  ======================================================================================

Additive quantizers (rq, lsq, prq, plsq) need the norm of each decoded vector. FAISS stores it in 8
bits in place of one codebook, or decodes vectors while it searches (``ST_decompress``, its
default), and then all bytes are codewords. The latter uses the bytes better: with residual codes of
4 bytes recall is .38, and .33 if the fourth byte holds the norm. FAISS decodes each row for each
query, which takes 34 ms a query at 50,000 rows. Here all rows are decoded once and searched by an
`IndexFlatL2`, which gives the same ranking (tests/benchmarks/test_baselines.py).

The recalls above are recall 100@100 at 32 bits on CIFAR-10 with features of EfficientNet-Lite0
(power-normalized), of which 5,000 train and 50,000 are searched.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.geometry.base import clip_norm
from hyperpq.quantizers.kmeans import import_faiss, kmeans
from hyperpq.quantizers.product import LorentzProductQuantizer
from hyperpq.scan import search

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

LENGTHS = (8, 16, 32, 64, 128)
# Strings of FAISS's index factory, https://github.com/facebookresearch/faiss/wiki/The-index-factory
# Without "np" PQ would also sort its codewords for polysemous search, which ADC does not need.
FACTORY = {
    "pq": "PQ{M}x8np",
    "pca_pq": "PCA{w},RR{w},PQ{M}x8np",
    "opq": "PCA{w},RR{w},OPQ{M}_{w},PQ{M}x8np",
    "rq": "PCA{w},RQ{M}x8",
    "lsq": "PCA{w},LSQ{M}x8",
    "prq": "PCA{w},RR{w},PRQ{splits}x{each}x8",
    "plsq": "PCA{w},RR{w},PLSQ{splits}x{each}x8",
    "itq": "ITQ{bits},LSH",
    "itq_adc": "ITQ{bits},LSH",
    "rabitq": "PCA{bits},RR{bits},RaBitQ",
}
BEAM = 16
# Median length and clip radius of a subspace's tangent vectors: those of the default recipe.
RADIUS, MAX_NORM = 0.6, 1.5


class Vectors(NamedTuple):
    """The features of a data set, as a method gets them.

    Attributes
    ----------
    train, query, database : ndarray, shape (n, d), (nq, d) and (N, d), float32
    """

    train: Floats
    query: Floats
    database: Floats


class Result(NamedTuple):
    """What a method found, and what it cost.

    Attributes
    ----------
    ids : ndarray, shape (nq, k), int64
        Rows of the database, nearest first; -1 where there are fewer than k.
    train_seconds : float
        Duration of training.
    encode_seconds : float
        Duration of encoding the whole database.
    bytes : int
        Bytes of a code.
    """

    ids: Ids
    train_seconds: float
    encode_seconds: float
    bytes: int


def unit(x: Floats) -> Floats:
    """Scale the rows of x (n, d) to length 1; rows of zeros stay zeros."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.ascontiguousarray(x / np.maximum(norms, np.finfo(np.float32).tiny), np.float32)


def power_normalize(x: Floats, train: Floats) -> Floats:
    """Power-normalize the rows of x, as hyperpq's codec does.

    The result is the signed square root of x (n, d), minus the mean of that of ``train``, scaled to
    length 1.
    """

    def signed_root(rows: Floats) -> Floats:
        return np.sign(rows) * np.sqrt(np.abs(rows))

    return unit(signed_root(x) - signed_root(train).mean(0))


def exact(query: Floats, database: Floats, k: int) -> Ids:
    """Find the k rows of the database nearest to each query by cosine, shape (nq, k)."""
    index = import_faiss().IndexFlatIP(database.shape[1])
    index.add(unit(database))
    return index.search(unit(query), k)[1]


def lengths(name: str) -> tuple[int, ...]:
    """Code lengths in bits that a baseline supports."""
    # A product-additive code with one codebook for each subspace is product quantization.
    return tuple(bits for bits in LENGTHS if bits >= 32 or name not in ("prq", "plsq"))


def width(bits: int) -> int:
    """Number of dimensions that PCA keeps."""
    return max(64, bits)


def make_index(name: str, d: int, bits: int, seed: int) -> Any:
    """Create the untrained FAISS index of a baseline.

    Parameters
    ----------
    name : str
        Key of `FACTORY`.
    d : int
        Dimension of the features.
    bits : int
        Bits of a code, one of `lengths`.
    seed : int
        Seed of everything random in the index.

    Raises
    ------
    InvalidInputError
        If the baseline has no codes of that length, or none of features of d dimensions.
    """
    _check(name, d, bits)
    faiss = import_faiss()
    M = bits // 8
    splits = 4 if M >= 16 else 2
    sizes = {"M": M, "bits": bits, "w": width(bits), "splits": splits, "each": M // splits}
    index = faiss.index_factory(d, FACTORY[name].format(**sizes))
    for step in _chain(index):
        if isinstance(step, faiss.RandomRotationMatrix):
            step.init(seed)
        elif isinstance(step, faiss.ITQTransform):
            step.itq.seed = seed
        elif isinstance(step, faiss.OPQMatrix):
            _seed_opq(step, seed)
    last = _last(index)
    for quantizer in _quantizers(last):
        if hasattr(quantizer, "cp"):
            _set_clustering(quantizer.cp, seed)
        if isinstance(quantizer, faiss.ResidualQuantizer):
            # Tables give the same codes as the plain beam search, four times faster.
            quantizer.max_beam_size, quantizer.use_beam_LUT = BEAM, 1
        if isinstance(quantizer, faiss.LocalSearchQuantizer):
            # FAISS perturbs 4 codes at a time by default and refuses fewer codebooks.
            quantizer.random_seed, quantizer.nperts = seed, min(quantizer.nperts, quantizer.M)
    if isinstance(last, faiss.IndexRaBitQ):
        last.qb = 0  # do not quantize queries
    return index


def _check(name: str, d: int, bits: int) -> None:
    """Raise `InvalidInputError` for a code that the method cannot make."""
    if bits not in lengths(name):
        supported = ", ".join(map(str, lengths(name)))
        raise InvalidInputError(f"{name} has no codes of {bits} bits; expected one of {supported}.")
    if name == "pq":
        if d % (bits // 8):
            raise InvalidInputError(
                f"features have {d} dimensions; pq at {bits} bits expected a multiple of "
                f"{bits // 8}; choose another length."
            )
    elif d < width(bits):
        raise InvalidInputError(
            f"features have {d} dimensions; {name} at {bits} bits expected at least {width(bits)}; "
            "choose a shorter code or pq."
        )


def _set_clustering(cp: Any, seed: int) -> None:
    """Train on every feature, without FAISS's warning that they are few."""
    cp.seed, cp.min_points_per_centroid, cp.max_points_per_centroid = seed, 1, 1 << 20


def _seed_opq(opq: Any, seed: int) -> None:
    """Seed the product quantizer inside OPQ; FAISS always starts from the same rotation."""
    pq = import_faiss().ProductQuantizer(opq.d_out, opq.M, 8)
    _set_clustering(pq.cp, seed)
    # OPQ has only a pointer; FAISS's Python layer keeps such objects alive in this attribute.
    opq.pq, opq.referenced_objects = pq, [pq]


def _chain(index: Any) -> list[Any]:
    """The transforms of an index, in order."""
    faiss = import_faiss()
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    return [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]


def _last(index: Any) -> Any:
    """The index behind the transforms."""
    faiss = import_faiss()
    inner = index.index if isinstance(index, faiss.IndexPreTransform) else index
    return faiss.downcast_index(inner)


def _quantizers(last: Any) -> list[Any]:
    """The quantizer of an index, or those of its subspaces; a binary code has none."""
    faiss = import_faiss()
    for name in ("pq", "rq", "lsq"):
        if hasattr(last, name):
            return [getattr(last, name)]
    for name in ("prq", "plsq"):
        if hasattr(last, name):
            product = getattr(last, name)
            return [
                faiss.downcast_Quantizer(product.subquantizer(i)) for i in range(product.nsplits)
            ]
    return []


def _transform(index: Any, x: Floats) -> Floats:
    """Apply the transforms of an index."""
    for step in _chain(index):
        x = step.apply(x)
    return x


def _search_decoded(index: Any, query: Floats, k: int) -> Ids:
    """Find the k nearest decoded vectors."""
    last = _last(index)
    flat = import_faiss().IndexFlatL2(last.d)
    flat.add(last.reconstruct_n(0, last.ntotal))
    return flat.search(_transform(index, query), k)[1]


def _search_signs(index: Any, query: Floats, k: int) -> Ids:
    """Find the k largest inner products of rotated queries with the signs in the codes."""
    faiss = import_faiss()
    last = _last(index)
    codes = faiss.vector_to_array(last.codes).reshape(last.ntotal, -1)
    signs = np.unpackbits(codes, axis=1, count=last.nbits, bitorder="little")
    flat = faiss.IndexFlatIP(last.nbits)
    flat.add(signs.astype(np.float32) * 2 - 1)
    return flat.search(_transform(index, query), k)[1]


def _search_index(index: Any, query: Floats, k: int) -> Ids:
    """Search as FAISS does."""
    return index.search(query, k)[1]


_SEARCH = {
    "itq_adc": _search_signs,
    **dict.fromkeys(("rq", "lsq", "prq", "plsq"), _search_decoded),
}


def _faiss_baseline(name: str, vectors: Vectors, bits: int, k: int, seed: int) -> Result:
    """Train, encode and search with an index of `FACTORY`."""
    train, query, database = vectors
    index = make_index(name, train.shape[1], bits, seed)
    start = time.perf_counter()
    index.train(np.ascontiguousarray(train))
    trained = time.perf_counter()
    index.add(np.ascontiguousarray(database))
    encoded = time.perf_counter()
    ids = _SEARCH.get(name, _search_index)(index, np.ascontiguousarray(query), k)
    return Result(ids, trained - start, encoded - trained, index.sa_code_size())


@torch.no_grad()
def _tangent_baseline(name: str, vectors: Vectors, bits: int, k: int, seed: int) -> Result:
    """PCA as tangent vectors, k-means codebooks of each subspace, hyperbolic ADC (metric l1)."""
    train, query, database = vectors
    _check(name, train.shape[1], bits)
    faiss = import_faiss()
    M, w = bits // 8, width(bits)
    quantizer = LorentzProductQuantizer(M, w // M, max_norm=MAX_NORM)
    start = time.perf_counter()
    pca = faiss.PCAMatrix(train.shape[1], w)
    pca.train(np.ascontiguousarray(train))
    opq = faiss.OPQMatrix(w, M, w) if name == "tangent_opq" else None
    if opq is not None:
        _seed_opq(opq, seed)
        opq.train(pca.apply(np.ascontiguousarray(train)))
    in_turn = np.arange(w).reshape(w // M, M).T.ravel()

    def directions(x: Floats) -> torch.Tensor:
        v = pca.apply(np.ascontiguousarray(x))
        v = v[:, in_turn] if opq is None else opq.apply(v)
        return torch.from_numpy(v).view(len(v), M, w // M)

    scale = RADIUS / directions(train).norm(dim=2).median()
    v = clip_norm(directions(train) * scale, MAX_NORM)
    for m in range(M):
        centroids, _ = kmeans(v[:, m].contiguous().numpy(), quantizer.K, seed=seed + m)
        quantizer.codebooks[m] = torch.from_numpy(centroids)
    trained = time.perf_counter()
    codes = quantizer.codes(quantizer.points(directions(database) * scale)).numpy()
    encoded = time.perf_counter()
    tables = quantizer.tables(quantizer.points(directions(query) * scale)).numpy()
    ids = search(tables, codes, k, threads=1)[1]
    return Result(ids, trained - start, encoded - trained, codes.shape[1])


class Baseline(Protocol):
    """Trains, encodes and searches once."""

    def __call__(self, vectors: Vectors, bits: int, k: int, seed: int) -> Result:
        """Find the k nearest rows of the database for each query in codes of ``bits`` bits."""


BASELINES: dict[str, Baseline] = {
    **{name: partial(_faiss_baseline, name) for name in FACTORY},
    **{name: partial(_tangent_baseline, name) for name in ("tangent_pq", "tangent_opq")},
}
