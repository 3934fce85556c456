"""FAISS's free functions: `index_factory`, `read_index` and `write_index`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from hyperpq.errors import InvalidInputError
from hyperpq.store.grouping import MAX_CELLS
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.codec.feature_codec import KeptFeatures
    from hyperpq.index.hihpq_index import HiHPQIndex

_LEARNED = re.compile(
    r"HiHPQ(?P<M>[0-9]{1,4})(?:x(?P<nbits>[48]))?(?:,(?P<word>l1|geodesic|chord|fidelity|balanced))?"
)
_PLAIN = re.compile(
    r"(?:OPQ(?P<groups>[0-9]{1,4})(?:_(?P<width>[0-9]{1,6}))?,)?"
    r"PQ(?P<M>[0-9]{1,4})(?:x(?P<nbits>[48]))?(?:np)?"
)
_CELLS = re.compile(r"IVF(?P<nlist>[0-9]{1,7}),")
# FAISS's numbers of its metrics.
_METRIC_INNER_PRODUCT, _METRIC_L2 = 0, 1
_NUMBERED = {_METRIC_INNER_PRODUCT: "ip", _METRIC_L2: "l2"}


def parse_factory(d: int, text: str, metric: str | int | None = None) -> dict[str, Any]:
    """Parse the name of an index such as ``HiHPQ8x8,fidelity`` or ``OPQ8,PQ8``.

    Parameters
    ----------
    d : int
        Width of the vectors.
    text : str
        ``HiHPQ{M}``, then ``x8`` or ``x4`` (bits of a code, 8 by default), then ``,fidelity`` for
        codes that keep the exact neighbours as FAISS's codes do, ``,balanced`` for codes that keep
        both, or the metric ``,l1``,
        ``,geodesic`` or ``,chord`` of codes that bring together what belongs together (``l1`` by
        default). Or plain codebooks by FAISS's name: ``PQ{M}``, then ``x8`` or ``x4``, and in front
        of it ``OPQ{M},`` or ``OPQ{M}_{width},`` for a learned rotation; ``np`` at the end is
        accepted and has no effect, since codebooks are never trained for polysemous codes. With
        each of them ``IDMap`` or ``IDMap2``, in front (``IDMap,``) or at the end (``,IDMap``), is
        accepted and has no effect, since vectors can always have ids of their own. ``IVF{nlist},``
        before ``HiHPQ`` or ``PQ`` is for an index with so many cells; there, codes are not those of
        residuals.
    metric : str or int, optional
        Metric of the index: ``l2`` (the default) or ``ip`` of plain codebooks; ``cosine`` (the
        default), ``l2`` or ``ip`` of codes that keep exact neighbours; ``l1``, ``geodesic`` or
        ``chord`` of other codes, if the text does not say it. FAISS's numbers ``faiss.METRIC_L2``
        and ``faiss.METRIC_INNER_PRODUCT`` stand for ``l2`` and ``ip``.

    Returns
    -------
    dict
        Arguments of `HiHPQIndex`: ``d``, ``M``, ``nbits``, ``metric``, and ``objective`` or
        ``rotation`` where the text names them; with ``nlist``, of `HiHPQIVFIndex`.

    Raises
    ------
    InvalidInputError
        If the text is another one, or the metric does not fit it.
    """
    d = as_count(d, "d")
    bare = text
    if isinstance(text, str):
        bare = re.sub(r"^IDMap2?,", "", text)
        bare = re.sub(r",IDMap2?\Z", "", text) if bare == text else bare
    cells = _CELLS.search(bare) if isinstance(bare, str) else None
    nlist = {}
    if cells is not None and int(cells["nlist"]) >= 1:
        # FAISS has the rotation in front: OPQ8_32,IVF100,PQ8.
        nlist = {"nlist": as_count(int(cells["nlist"]), "nlist", 1, MAX_CELLS)}
        bare = bare[: cells.start()] + bare[cells.end() :]
    for grammar in (_LEARNED, _PLAIN):
        match = grammar.fullmatch(bare) if isinstance(bare, str) else None
        if match and int(match["M"]) >= 1:
            sizes = {"d": d, **nlist, "M": int(match["M"]), "nbits": int(match["nbits"] or 8)}
            if grammar is _LEARNED:
                return sizes | _learned(text, match["word"], metric)
            return {**sizes, "metric": _plain_metric(metric), **_rotation(text, match, d)}
    raise InvalidInputError(
        f"the factory text is {text!r}; expected HiHPQ, the number of codes, x8 or x4, and then "
        ",fidelity or ,balanced or ,l1 or ,geodesic or ,chord, as in HiHPQ8, HiHPQ16x4 or "
        "HiHPQ8x8,fidelity; or PQ with x8 or x4, after OPQ if it is wanted, as in PQ8, PQ16x4 or "
        "OPQ8_32,PQ8; with IVF and a number of cells before HiHPQ or PQ, as in IVF1024,HiHPQ8."
    )


def _learned(text: str, named: str | None, metric: str | int | None) -> dict[str, str]:
    """Metric and objective of learned codes."""
    if named == "fidelity":
        name = _NUMBERED.get(metric, metric) if type(metric) is int else metric
        if name not in (None, "inner", "cosine", *_NUMBERED.values()):
            raise InvalidInputError(
                f"metric is {metric!r} with the factory text {text!r}; expected 'cosine', 'l2' or "
                "'ip', or faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT; leave it out for 'cosine'."
            )
        # Nobody has asked for a metric, which another training may have.
        return {"metric": "l1" if name in (None, "inner") else str(name), "objective": "fidelity"}
    if named == "balanced":
        # The metric of its semantic codes.
        return {**_learned(text, None, metric), "objective": "balanced"}
    if metric is None:
        return {"metric": named or "l1"}
    if metric not in ("l1", "geodesic", "chord") or metric != (named or metric):
        raise InvalidInputError(
            f"metric is {metric!r} with the factory text {text!r}; expected 'l1', 'geodesic' or "
            "'chord', the same in both; leave it out."
        )
    return {"metric": str(metric)}


def _plain_metric(metric: str | int | None) -> str:
    if metric is None:
        return "l2"
    name = _NUMBERED.get(metric) if type(metric) is int else metric
    if name not in _NUMBERED.values():
        raise InvalidInputError(
            f"metric is {metric!r}; expected 'l2' or 'ip', or faiss.METRIC_L2 or "
            "faiss.METRIC_INNER_PRODUCT."
        )
    return str(name)


def _rotation(text: str, match: re.Match[str], d: int) -> dict[str, int]:
    if match["groups"] is None:
        return {}
    if int(match["groups"]) != int(match["M"]):
        raise InvalidInputError(
            f"the factory text is {text!r}; expected the same number after OPQ and PQ, as in "
            f"OPQ{match['M']},PQ{match['M']}."
        )
    width = int(match["width"] or d)
    if not width:
        raise InvalidInputError(f"the factory text is {text!r}; expected a width of at least 1.")
    return {"rotation": width}


def index_factory(
    d: int,
    text: str,
    metric: str | int | None = None,
    *,
    features: KeptFeatures = "none",
    device: str = "auto",
) -> HiHPQIndex:
    """Make an untrained index by its name, see `parse_factory` and `HiHPQIndex`.

    Examples
    --------
    >>> from hyperpq.index.factory import index_factory
    >>> index_factory(64, "HiHPQ8x8", device="cpu")
    HiHPQIndex(d=64, M=8, nbits=8, metric='l1', objective='semantic', not trained)
    >>> index_factory(64, "HiHPQ8x8,fidelity", device="cpu")
    HiHPQIndex(d=64, M=8, nbits=8, metric='cosine', objective='fidelity', not trained)
    >>> index_factory(64, "HiHPQ8x8,fidelity", "l2", device="cpu")
    HiHPQIndex(d=64, M=8, nbits=8, metric='l2', objective='fidelity', not trained)
    >>> index_factory(64, "HiHPQ8x8,balanced", device="cpu")
    HiHPQIndex(d=64, M=8, nbits=8, metric='balanced', objective='balanced', not trained)
    >>> index_factory(64, "OPQ8_32,PQ8", "ip", device="cpu")
    HiHPQIndex(d=64, M=8, nbits=8, metric='ip', rotation=32, not trained)
    >>> index_factory(64, "IVF1024,HiHPQ8x8", device="cpu").nlist
    1024
    """
    from hyperpq.index.hihpq_index import HiHPQIndex
    from hyperpq.index.ivf import HiHPQIVFIndex

    arguments = parse_factory(d, text, metric)
    kind = HiHPQIVFIndex if "nlist" in arguments else HiHPQIndex
    return kind(**arguments, features=features, device=device)


def read_index(path: str | os.PathLike[str], *, device: str = "auto") -> HiHPQIndex:
    """Open the index directory at ``path``, see `HiHPQIndex.load`."""
    from hyperpq.index.hihpq_index import HiHPQIndex

    return HiHPQIndex.load(path, device=device)


def write_index(index: HiHPQIndex, path: str | os.PathLike[str]) -> None:
    """Write a copy of an index to a directory, replacing an index that is there.

    The index itself stays as it is: an index in memory stays in memory, and later changes do not
    reach the copy. `HiHPQIndex.save` moves an index in memory to its directory instead. If the
    index already is in the directory ``path``, nothing is written, as all changes are stored.

    Raises
    ------
    NotTrainedError
        If the index has no codec.
    StoreError
        If other files are at ``path`` or the system refuses.
    """
    index._write(path, overwrite=True, move=False)
