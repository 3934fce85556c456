"""`Explorations`: groups, map and codewords of the index that is shown, made in the background."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hyperpq.codes import unpack
from hyperpq.errors import InvalidInputError
from hyperpq.explore import Exploration
from hyperpq.gallery.map_page import MapRows, map_data
from hyperpq.server.batcher import BusyError
from hyperpq.server.schemas import SampleImage
from hyperpq.server.served_index import Served, ServedIndex
from hyperpq.utils.json_text import path_text

MAX_ON_MAP = 20_000
"""Images on the map of a page; of more, each group shows the same share."""
_BATCH = 1 << 16


@dataclass(frozen=True)
class Explored:
    """What is known of one snapshot, as JSON.

    Attributes
    ----------
    exploration : Exploration
        What it was made of.
    tree, map, codewords : bytes
        See `hyperpq.server.schemas`.
    """

    exploration: Exploration
    tree: bytes
    map: bytes
    codewords: bytes

    @classmethod
    def of(cls, exploration: Exploration, snapshot: int) -> Explored:
        """Group the rows and lay them out; on a million rows this takes minutes."""
        tree, view = exploration.tree, exploration.view
        shown = MapRows.of(exploration, 0, MAX_ON_MAP)
        ids = list(dict.fromkeys(id for c in tree.clusters for id in c.representatives))
        paths = dict(zip(ids, map(path_text, view.paths_of(ids)), strict=True))
        clusters = [
            cluster.to_json()
            | {"representatives": [{"id": i, "path": paths[i]} for i in cluster.representatives]}
            for cluster in tree.clusters
        ]
        places = dict(enumerate(tree.ids[shown.rows].tolist()))
        said = {"snapshot": snapshot, "levels": tree.levels, "clusters": clusters}
        return cls(
            exploration,
            _json(said),
            _json({"snapshot": snapshot, **map_data(exploration, shown, places)}),
            _json({"snapshot": snapshot, "disks": [disk.to_json() for disk in exploration.disks]}),
        )

    def images_with(self, m: int, codeword: int, n: int) -> list[SampleImage]:
        """The first images whose codes use a codeword of subspace m.

        Raises
        ------
        InvalidInputError
            If there is no such codeword.
        """
        view = self.exploration.view
        coder, ids = view.coder, view.ids
        for name, value, count in (
            ("m", m, coder.M),
            ("codeword", codeword, 1 << coder.nbits),
        ):
            if value >= count:
                raise InvalidInputError(f"{name} is {value}; expected a number below {count}.")
        found = np.empty(0, np.int64)
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            codes = unpack(view.codes_of(some), coder.M, coder.nbits)
            found = np.concatenate([found, some[codes[:, m] == codeword]])[:n]
            if len(found) == n:
                break
        paths = view.paths_of(found) if len(found) else []
        return [
            SampleImage(id=id, path=path_text(path))
            for id, path in zip(found.tolist(), paths, strict=True)
        ]


class Explorations:
    """Explores the index that is shown, one snapshot at a time, in a thread of its own.

    Parameters
    ----------
    served : ServedIndex
        The index.
    """

    def __init__(self, served: ServedIndex) -> None:
        self._served = served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explore")
        self._lock = threading.Lock()
        self._running: tuple[Served, int, Future[Explored]] | None = None
        self._done: Explored | None = None

    def current(self) -> Explored:
        """What is known of the index; that of the former snapshot while a new one is explored.

        Raises
        ------
        BusyError
            If it is not ready; it is then being made.
        HyperPQError
            If the index cannot be explored.
        """
        served = self._served.current
        snapshot = served.index.collection.snapshot
        with self._lock:
            if self._running is None or (
                self._running[:2] != (served, snapshot) and self._running[2].done()
            ):
                future = self._thread.submit(_explored, served, snapshot)
                self._running = served, snapshot, future
            future = self._running[2]
            if future.done():
                self._done = future.result()
            if self._done is None:
                raise BusyError("the images are being grouped")
            return self._done

    def close(self) -> None:
        """Wait for nothing that has not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _explored(served: Served, snapshot: int) -> Explored:
    return Explored.of(Exploration(served.index.view()), snapshot)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
