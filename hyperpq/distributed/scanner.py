"""`RayScanner`: searches of codes by processes of a cluster."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.codes import CodeSegment, TiledCodes
from hyperpq.distributed.cluster import Closing, Cluster, divide_machines
from hyperpq.distributed.pool import Pool
from hyperpq.errors import InvalidInputError
from hyperpq.scan import merge_range_results, merge_results
from hyperpq.scan.arguments import checked_radius, checked_tables
from hyperpq.scan.cuda.parts import Part, divide
from hyperpq.utils.validation import as_count


class _Shape(NamedTuple):
    """What is said of the rows of a part beside its arrays."""

    n: int
    code_size: int
    has_bits: bool


class _Searcher:
    """What a process does: searches of parts, whose arrays Ray has brought to its machine."""

    def search(
        self, tables: NDArray[np.float32], k: int, shapes: Sequence[_Shape], *arrays: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        segments = [*_segments(shapes, arrays)]
        return scan.search_segments(tables, segments, k)

    def range_search(
        self,
        tables: NDArray[np.float32],
        radius: float,
        shapes: Sequence[_Shape],
        *arrays: NDArray[Any],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        return scan.range_search_segments(tables, [*_segments(shapes, arrays)], radius)


def _segments(shapes: Sequence[_Shape], arrays: Sequence[NDArray[Any]]) -> Iterator[CodeSegment]:
    given = iter(arrays)
    for shape in shapes:
        codes = TiledCodes(next(given), shape.n, shape.code_size)
        yield CodeSegment(codes, next(given), next(given) if shape.has_bits else None)


@dataclass
class _Sent:
    """Arrays of a part that the cluster holds."""

    codes: Any
    ids: Any
    bits: tuple[ref[NDArray[np.uint64]], Any] | None = None


class RayScanner(Closing):
    """Scans codes on a Ray cluster. The results are those of the scan here, to the last bit.

    Give it to an index as ``index.scanner``. The first search sends codes and ids to the cluster,
    which holds them in memory as long as the index has them: this machine all of them, and others
    those that their processes search. Any process can take over the part of another that has ended.
    As a context it ends the processes.

    Parameters
    ----------
    address : str
        See `Cluster`.
    count : int, optional
        Number of processes; by default one for each two cores of the cluster.
    replicas : int
        How many processes search each part in turn. There are ``count // replicas`` parts.

    Raises
    ------
    InvalidInputError
        If a number is not as described.
    MissingDependencyError, ClusterError
        If there is no Ray or no cluster, or it has not as much.

    Notes
    -----
    A search costs 4 to 8 ms for the calls, so it pays for collections that take longer than that
    here. Filters send a bit for each row with each search.
    """

    def __init__(
        self, address: str = "local", *, count: int | None = None, replicas: int = 1
    ) -> None:
        if count is not None:
            as_count(count, "count")
        as_count(replicas, "replicas")
        self._cluster = Cluster(address)
        try:
            self.count, share = divide_machines(self._cluster.machines(), count)
            if replicas > self.count:
                raise InvalidInputError(
                    f"replicas is {replicas}; expected no more than the {self.count} processes."
                )
            self.replicas = replicas
            self._pool = Pool(self._cluster, _Searcher, (), self.count, share)
        except BaseException:
            self._cluster.close()
            raise
        self._sent: WeakKeyDictionary[TiledCodes, dict[tuple[int, int], _Sent]] = (
            WeakKeyDictionary()
        )
        self._turns = itertools.count()
        # Searches of several threads go one after another.
        self._lock = threading.Lock()

    def search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        k: int,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest rows of several segments, see `scan.search_segments`.

        ``threads`` is of no effect here.
        """
        tables, k = checked_tables(tables, segments), as_count(k, "k")
        found = self._call("search", tables, k, segments)
        return merge_results(found or [scan.search_segments(tables, [], k)], k)

    def range_search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        radius: float,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """All rows at a distance below a radius, see `scan.range_search_segments`.

        ``threads`` is of no effect here.
        """
        tables, radius = checked_tables(tables, segments), checked_radius(radius)
        found = self._call("range_search", tables, radius, segments)
        return merge_range_results(found or [scan.range_search_segments(tables, [], radius)])

    def _call(
        self, name: str, tables: NDArray[np.float32], limit: float, segments: Sequence[CodeSegment]
    ) -> list[Any]:
        """What each process finds in its parts."""
        n_parts = self.count // self.replicas
        with self._lock:
            turn = next(self._turns) % self.replicas
            sent = self._cluster.ray.put(tables)
            calls = []
            for number, parts in enumerate(divide(segments, n_parts)):
                if parts:
                    shapes, arrays = self._arrays(parts)
                    calls.append((turn * n_parts + number, (sent, limit, shapes, *arrays)))
            return [found for _, found in self._pool.in_order(name, calls, home=lambda slot: slot)]

    def _arrays(self, parts: Sequence[Part]) -> tuple[list[_Shape], list[Any]]:
        """The arrays of parts, as the cluster holds them."""
        shapes, arrays = [], []
        for part in parts:
            sent = self._send(part)
            arrays += [sent.codes, sent.ids]
            bits = self._send_bits(part, sent)
            if bits is not None:
                arrays.append(bits)
            shapes.append(_Shape(part.n, part.code_size, bits is not None))
        return shapes, arrays

    def _send(self, part: Part) -> _Sent:
        known = self._sent.setdefault(part.segment.codes, {})
        key = part.first, part.n
        if key not in known:
            put = self._cluster.ray.put
            known[key] = _Sent(put(part.codes), put(part.ids(np.arange(part.n))))
        return known[key]

    def _send_bits(self, part: Part, sent: _Sent) -> Any:
        """The bits of a part; those of deleted rows are the same in the next search."""
        bits = part.segment.bits
        if bits is None:
            return None
        if sent.bits is None or sent.bits[0]() is not bits:
            sent.bits = ref(bits), self._cluster.ray.put(part.words)
        return sent.bits[1]

    def close(self) -> None:
        """End the processes, and Ray if it was started for them."""
        self._sent.clear()
        self._pool.close()
        self._cluster.close()
