"""Conversion of codes and codebooks: `from_faiss`, `to_faiss`, `write_faiss`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hyperpq.codec.base import Codec
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.errors import InvalidInputError
from hyperpq.index.cells import Cells
from hyperpq.quantizers.flat_metrics import FlatMetric
from hyperpq.quantizers.kmeans import import_faiss
from hyperpq.utils.output_files import check_writable, written_aside
from hyperpq.utils.validation import as_choice, as_codes, as_features, as_ids

Conversion = Literal["plain", "chord", "tables"]
_Choice = Literal["auto", "chord", "tables"]
_CHOICES: tuple[_Choice, ...] = get_args(_Choice)
# The distance, up to its sign, that FAISS returns where there is no result.
_MISSING = np.finfo(np.float32).max


def from_faiss(index: Any) -> tuple[PQCodec, NDArray[np.uint8], NDArray[np.int64]]:
    """Take the codebooks, codes and ids of a FAISS index.

    A search finds what ``IndexPQ`` finds by default: all codes are compared, by distance tables of
    the query. That is also what ``IndexIVFPQ`` finds with ``nprobe = nlist``. Its lists are not
    carried over, as they follow from the vectors, and cells follow from the codes; see
    `HiHPQIndex.make_cells`.

    Parameters
    ----------
    index : faiss.IndexPQ, or faiss.IndexIVFPQ with by_residual=False
        A trained index with metric L2 or inner product and 8 or 4 bits, alone or in a
        ``faiss.IndexIDMap``, ``IndexIDMap2`` or a ``faiss.IndexPreTransform`` with one rotation
        (``OPQMatrix``, ``RandomRotationMatrix``, or another ``LinearTransform`` with orthonormal
        rows and without a bias). It is an object, not a file, since the reader of
        FAISS is not made for files from unknown sources.

    Returns
    -------
    codec : PQCodec
        On the CPU.
    codes : ndarray, shape (n, code_size), uint8
        Packed as `codes.pack` describes.
    ids : ndarray, shape (n,), int64
        The ids of the map or of the lists, or 0 to n - 1.

    Raises
    ------
    InvalidInputError
        If the index is another one, or ids are negative or repeated.
    MissingDependencyError
        If faiss is not installed.
    """
    faiss = import_faiss()
    inner, ids, rotation = index, None, None
    for _ in range(2):  # A map of a rotated index, or a rotated map.
        if ids is None and isinstance(inner, faiss.IndexIDMap):
            ids, inner = faiss.vector_to_array(inner.id_map), faiss.downcast_index(inner.index)
        elif rotation is None and isinstance(inner, faiss.IndexPreTransform):
            rotation, inner = _rotation_of(inner), faiss.downcast_index(inner.index)
    name = type(inner).__name__
    # Exactly this type: others of its kind have further codes.
    in_lists = type(inner) is faiss.IndexIVFPQ
    if not in_lists and not isinstance(inner, faiss.IndexPQ):
        raise InvalidInputError(
            f"index is of type {name}; expected a faiss.IndexPQ or IndexIVFPQ, alone or in a "
            "faiss.IndexIDMap or an IndexPreTransform with one rotation."
        )
    if in_lists and inner.by_residual:
        raise InvalidInputError(
            "index is an IndexIVFPQ with codes of residuals, which mean something else in each "
            "list; expected by_residual=False; add the vectors themselves to a HiHPQIVFIndex."
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
    codec = PQCodec.from_codebooks(words, metric=metrics[inner.metric_type], rotation=rotation)
    n = inner.ntotal
    if in_lists:
        codes, positions = _listed(inner)
    else:
        positions = np.arange(n)
        codes = faiss.vector_to_array(inner.codes).reshape(n, codec.code_size)
    if pq.nbits == 4 and pq.M % 2:
        codes[:, -1] &= 15
    return codec, codes, as_ids(positions if ids is None else ids[positions], n)


def _listed(index: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Codes (n, code_size) and ids (n,) of a ``faiss.IndexIVFPQ``, ascending by id."""
    from faiss.contrib.inspect_tools import get_invlist

    lists = [get_invlist(index.invlists, number) for number in range(index.nlist)]
    ids = np.concatenate([ids for ids, _ in lists])
    order = np.argsort(ids, kind="stable")
    return np.concatenate([codes for _, codes in lists])[order], ids[order]


def _rotation_of(index: Any) -> NDArray[np.float32]:
    """Matrix (d2, d) of the only transform of a ``faiss.IndexPreTransform``."""
    faiss = import_faiss()
    chain = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    linear = len(chain) == 1 and isinstance(chain[0], faiss.LinearTransform)
    if not linear or chain[0].have_bias or not chain[0].is_trained:
        names = " and ".join(type(transform).__name__ for transform in chain) or "no transform"
        raise InvalidInputError(
            f"index is a faiss IndexPreTransform with {names}, which cannot be converted; expected "
            "one trained rotation without a bias; pass faiss.downcast_index(index.index), and "
            "index.chain.at(i).apply(x) in place of x."
        )
    matrix: NDArray[np.float32] = faiss.vector_to_array(chain[0].A)
    return matrix.reshape(chain[0].d_out, chain[0].d_in)


@dataclass(frozen=True, eq=False)
class FaissExport:
    """A FAISS index that searches codes of hyperpq, with the conversion of queries and distances.

    ``D, I = export.index.search(export.queries(x), k)`` finds what hyperpq finds, up to the order
    of ties, and ``export.distances(D)`` are the distances of hyperpq. The index is for searching:
    vectors are added by their codes, not by ``index.add``.

    Attributes
    ----------
    index : faiss.IndexIDMap2, or faiss.IndexIVFPQ
        A map over an ``IndexPQ``, or with the cells of plain codebooks an ``IndexIVFPQ``, whose
        ``nprobe`` is all of them. Where the codec has a rotation, an ``IndexPreTransform`` is
        around the ``IndexPQ`` or ``IndexIVFPQ``.
    codec : Codec
        The codec of the codes, which makes the queries.
    how : {"plain", "chord", "tables"}
        How distances are expressed, see `to_faiss`. ``plain`` stands for the codebooks of a
        `PQCodec`, where queries are the vectors themselves.
    """

    index: Any
    codec: Codec
    how: Conversion

    def queries(self, x: ArrayLike) -> NDArray[np.float32]:
        """Convert features to queries of ``index``.

        Parameters
        ----------
        x : array_like, shape (nq, d)
            Features.

        Returns
        -------
        ndarray, shape (nq, index.d), float32

        Raises
        ------
        InvalidInputError
            If ``x`` is not made of features, see `validation.as_features`.
        """
        if self.how == "plain":
            return as_features(x, self.codec.d)
        if self.how == "tables":
            return -self.codec.tables(x).reshape(-1, self.index.d)
        assert isinstance(self.codec, HiHPQCodec)
        q = self.codec.quantizer
        tangent = torch.from_numpy(self.codec.embed(x)).unflatten(1, (q.M, q.D))
        with torch.inference_mode():
            points = q.points(tangent.to(self.codec.device).double())
            # Its inner product with a lifted codeword is -(squared chord) + 2 sign / c.
            forms = -2 * q.geometry.dual(points, q.log_c.double().exp())
        return forms.float().flatten(1).cpu().numpy()

    def distances(self, D: ArrayLike) -> NDArray[np.float32]:
        """Convert distances of FAISS to those of `HiHPQIndex.search`.

        Parameters
        ----------
        D : array_like, any shape
            Values that ``index`` returned.

        Returns
        -------
        ndarray, same shape, float32
            Distances, +inf where there was no result. With ``chord`` they have an absolute error of
            about ``2^-24`` times the sum of the products of time parts.
        """
        values = np.asarray(D, np.float32)
        offset = 0.0
        if self.how == "chord":
            assert isinstance(self.codec, HiHPQCodec)
            q = self.codec.quantizer
            offset = float((-2 * q.geometry.sign / q.c.detach().double()).sum())
        negated = self.how != "plain" or self.codec.metric == "ip"
        out = (-values.astype(np.float64) - offset).astype(np.float32) if negated else values
        return np.where(np.abs(values) == _MISSING, np.float32(np.inf), out)


def to_faiss(
    codec: Codec,
    codes: ArrayLike,
    ids: ArrayLike,
    *,
    how: str = "auto",
    cells: Cells | None = None,
) -> FaissExport:
    """Make a FAISS index of codes that has the distances of their codec.

    Parameters
    ----------
    codec : Codec
        The codec of the codes.
    codes : array_like, shape (n, code_size), uint8
        Packed codes.
    ids : array_like, shape (n,)
        Distinct ids, at least 0.
    how : {"auto", "chord", "tables"}
        How distances become inner products. ``chord``, for the metric of that name in a curved
        space: codewords and queries are the space and time parts of points, and the index has
        d' = M (D + 1). ``tables``, for every metric: codewords are unit vectors and queries are
        distance tables, d' = M K. ``auto`` chooses ``chord`` where it is possible. The codebooks of
        a `PQCodec` are used as they are.
    cells : Cells, optional
        Cells of the codes of a `PQCodec`, which become lists. Other codes are exported without.

    Raises
    ------
    InvalidInputError, NotTrainedError
    MissingDependencyError
        If faiss is not installed.
    """
    faiss = import_faiss()
    asked = as_choice(how, "how", _CHOICES)
    codec.check_trained()
    rows = as_codes(codes, codec.code_size)
    labels = as_ids(ids, len(rows))
    chosen = _conversion(codec, asked)
    metric = faiss.METRIC_INNER_PRODUCT
    if chosen == "plain":
        words = codec.quantizer.codebooks
        metric = faiss.METRIC_L2 if codec.metric == "l2" else metric
    else:
        words = _chord_words(codec) if chosen == "chord" else _unit_words(codec)
    M, K, D = words.shape
    if chosen == "plain" and cells is not None:
        inner = _lists_of(codec, cells, metric)
    else:
        inner = faiss.IndexPQ(M * D, M, K.bit_length() - 1, metric)
    faiss.copy_array_to_vector(words.cpu().numpy().ravel(), inner.pq.centroids)
    inner.is_trained = True
    if chosen == "plain" and cells is not None:
        _fill_lists(inner, rows, labels, cells.numbers_of(rows, codec).numbers)
        return FaissExport(_rotated_index(codec, inner), codec, chosen)
    middle = _rotated_index(codec, inner)
    outer = faiss.IndexIDMap2(middle)  # Takes an empty index only.
    outer.is_trained = True
    faiss.copy_array_to_vector(rows.ravel(), inner.codes)
    faiss.copy_array_to_vector(labels, outer.id_map)
    inner.ntotal = middle.ntotal = outer.ntotal = len(rows)
    outer.construct_rev_map()
    return FaissExport(outer, codec, chosen)


def _lists_of(codec: Codec, cells: Cells, metric: int) -> Any:
    """An empty ``faiss.IndexIVFPQ`` whose lists are cells, all of which a search looks at."""
    assert isinstance(codec, PQCodec)
    faiss = import_faiss()
    centroids = cells.centroids
    if codec.rotation is not None:
        turned = centroids.astype(np.float64) @ codec.rotation.double().cpu().numpy().T
        centroids = np.ascontiguousarray(turned, np.float32)
    width = centroids.shape[1]
    quantizer = faiss.IndexFlat(width, metric)
    quantizer.add(centroids)
    index = faiss.IndexIVFPQ(quantizer, width, cells.nlist, codec.M, codec.nbits, metric)
    index.by_residual, index.nprobe = False, cells.nlist
    return index


def _fill_lists(
    index: Any, codes: NDArray[np.uint8], ids: NDArray[np.int64], numbers: NDArray[np.int32]
) -> None:
    """Put codes into the lists with these numbers."""
    faiss = import_faiss()
    order = np.argsort(numbers, kind="stable")
    codes, ids = np.ascontiguousarray(codes[order]), np.ascontiguousarray(ids[order])
    bounds = np.searchsorted(numbers[order], np.arange(index.nlist + 1))
    for number, (start, stop) in enumerate(pairwise(bounds.tolist())):
        if start < stop:
            own = faiss.swig_ptr(ids[start:stop]), faiss.swig_ptr(codes[start:stop])
            index.invlists.add_entries(number, stop - start, *own)
    index.ntotal = len(ids)


def _rotated_index(codec: Codec, inner: Any) -> Any:
    """A trained FAISS index behind the rotation of a codec; the index itself without one."""
    if not isinstance(codec, PQCodec) or codec.rotation is None:
        return inner
    faiss = import_faiss()
    rotation = codec.rotation.cpu().numpy()
    transform = faiss.LinearTransform(rotation.shape[1], rotation.shape[0], False)
    faiss.copy_array_to_vector(rotation.ravel(), transform.A)
    transform.is_trained, transform.is_orthonormal = True, True
    index = faiss.IndexPreTransform(transform, inner)
    index.is_trained, index.ntotal = True, inner.ntotal
    return index


def write_faiss(export: FaissExport, path: str | os.PathLike[str]) -> None:
    """Write the index of an export to a file for ``faiss.read_index``, whole or not at all.

    Raises
    ------
    InvalidInputError
        If no file can be written at ``path``.
    StoreError
        If the system refuses; a file that was at ``path`` is still there.
    """
    path = Path(path)
    check_writable(path)
    with written_aside(path) as aside:
        aside.write_bytes(import_faiss().serialize_index(export.index).tobytes())


def _conversion(codec: Codec, how: _Choice) -> Conversion:
    if isinstance(codec, PQCodec):
        if how != "auto":
            raise InvalidInputError(
                f"how is {how!r}, but a PQCodec is always converted as it is; expected 'auto'."
            )
        return "plain"
    if not isinstance(codec, HiHPQCodec) or codec.metric != "chord":
        if how == "chord":
            raise InvalidInputError(
                f"how is 'chord', but the codec has the metric {codec.metric!r}; expected the "
                "metric 'chord'; pass how='tables'."
            )
        return "tables"
    geometry = codec.quantizer.geometry
    if how == "chord" and not geometry.chord_is_inner_product:
        raise InvalidInputError(
            f"how is 'chord', but the codec has the geometry {geometry.name!r}; expected a curved "
            "one, where the chord is an inner product; pass how='tables'."
        )
    return "chord" if geometry.chord_is_inner_product and how != "tables" else "tables"


@torch.no_grad()
def _chord_words(codec: Codec) -> torch.Tensor:
    """Codewords (M, K, D + 1) as points with their time part, correct to the last digit."""
    assert isinstance(codec, HiHPQCodec)
    q = codec.quantizer
    words = q.codewords(torch.float64)
    return q.geometry.lift(words, q.log_c.double().exp()[:, None]).float()


def _unit_words(codec: Codec) -> torch.Tensor:
    """Unit vectors (M, K, K), each of which selects one entry of a distance table."""
    K = codec.quantizer.K
    return torch.eye(K).expand(codec.M, K, K)
