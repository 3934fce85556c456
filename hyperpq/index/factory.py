"""FAISS's free functions: `index_factory`, `read_index` and `write_index`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from hyperpq.errors import InvalidInputError
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex

_GRAMMAR = re.compile(
    r"(?:IDMap2?,)?HiHPQ(?P<M>[0-9]{1,4})(?:x(?P<nbits>[48]))?(?:,(?P<metric>l1|geodesic|chord))?"
)


def parse_factory(d: int, text: str) -> dict[str, Any]:
    """Settings of the index that a string like ``HiHPQ8x8,chord`` names.

    Parameters
    ----------
    d : int
        Width of the vectors.
    text : str
        ``HiHPQ{M}``, then ``x8`` or ``x4`` (bits of a code, 8 unless given), then ``,l1``,
        ``,geodesic`` or ``,chord`` (``l1`` unless given). ``IDMap,`` or ``IDMap2,`` before it
        changes nothing: vectors can always have ids of their own.

    Returns
    -------
    dict
        ``d``, ``M``, ``nbits`` and ``metric``.

    Raises
    ------
    InvalidInputError
        Another text; the message says what is expected.
    """
    d = as_count(d, "d")
    match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
    if not match or int(match["M"]) < 1:
        raise InvalidInputError(
            f"the factory text is {text!r}; expected HiHPQ, the number of codes, x8 or x4, and "
            "then ,l1 or ,geodesic or ,chord, as in HiHPQ8, HiHPQ16x4 or HiHPQ8x8,chord."
        )
    return {
        "d": d,
        "M": int(match["M"]),
        "nbits": int(match["nbits"] or 8),
        "metric": match["metric"] or "l1",
    }


def index_factory(d: int, text: str, *, device: str = "auto") -> HiHPQIndex:
    """An untrained index by a string, see `parse_factory`.

    Examples
    --------
    >>> from hyperpq.index.factory import index_factory
    >>> index_factory(64, "HiHPQ8x8", device="cpu")
    HiHPQIndex(d=64, M=8, nbits=8, metric='l1', not trained)
    """
    from hyperpq.index.hihpq_index import HiHPQIndex

    return HiHPQIndex(**parse_factory(d, text), device=device)


def read_index(path: str | os.PathLike[str], *, device: str = "auto") -> HiHPQIndex:
    """Open the index at ``path``, see `HiHPQIndex.load`."""
    from hyperpq.index.hihpq_index import HiHPQIndex

    return HiHPQIndex.load(path, device=device)


def write_index(index: HiHPQIndex, path: str | os.PathLike[str]) -> None:
    """Write an index to ``path``, in the place of one that is there; see `HiHPQIndex.save`."""
    index.save(path, overwrite=True)
