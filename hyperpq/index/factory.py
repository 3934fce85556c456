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
    """Parse the name of an index such as ``HiHPQ8x8,chord``.

    Parameters
    ----------
    d : int
        Width of the vectors.
    text : str
        ``HiHPQ{M}``, then ``x8`` or ``x4`` (bits of a code, 8 by default), then ``,l1``,
        ``,geodesic`` or ``,chord`` (``l1`` by default). A prefix ``IDMap,`` or ``IDMap2,`` is
        accepted and has no effect, since vectors can always have ids of their own.

    Returns
    -------
    dict
        ``d``, ``M``, ``nbits`` and ``metric``.

    Raises
    ------
    InvalidInputError
        If the text is another one.
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
    """Make an untrained index by its name, see `parse_factory`.

    Examples
    --------
    >>> from hyperpq.index.factory import index_factory
    >>> index_factory(64, "HiHPQ8x8", device="cpu")
    HiHPQIndex(d=64, M=8, nbits=8, metric='l1', not trained)
    """
    from hyperpq.index.hihpq_index import HiHPQIndex

    return HiHPQIndex(**parse_factory(d, text), device=device)


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
