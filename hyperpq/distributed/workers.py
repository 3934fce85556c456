"""`RayWorkers`: processes of a cluster that decode and encode the images of a build.

Images are encoded in parts of `PART_SIZE`, each a call that can be repeated, and the features come
back in the order of the list. So an index has the same bytes as one that is built without Ray, if
the processors compute the same: features in int8 are the same on all of them, and those in float32
on processors of one kind. Calls are sent as their results are taken, so that neither the list nor
the features pile up in memory or on disk.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpq.backbones.registry import load_backbone
from hyperpq.distributed.cluster import Closing, Cluster, divide_machines
from hyperpq.distributed.pool import Pool
from hyperpq.errors import BackboneError, ClusterError, InvalidInputError
from hyperpq.images.extract import Features, ReadOptions, extract_features

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.images.sources import Source
    from hyperpq.progress import Phase

PART_SIZE = 256
"""Images of a call: whole batches of the network, whose features do not depend on the parts."""


@dataclass(frozen=True)
class _Network:
    """The network that the workers load."""

    name: str
    identity: dict[str, Any]
    tuned: TunedWeights | None
    device: str

    def load(self) -> Backbone:
        network = load_backbone(
            self.name, device=self.device, tuned=self.tuned, precision=self.identity["dtype"]
        )
        network.check_matches(self.identity)
        return network


class _Encoder:
    """What a worker does."""

    def __init__(self, network: _Network) -> None:
        self._network = network.load()

    def encode(self, sources: Sequence[Source], options: ReadOptions) -> Features:
        return extract_features(sources, self._network, options)


class _Part(NamedTuple):
    """Consecutive images of a group."""

    sources: Sequence[Source]
    start: int
    is_last: bool


class RayWorkers(Closing):
    """Processes of a Ray cluster that decode and encode images.

    They take the place of the ``workers`` of a build, an update or `ImageIndex.add`. Every machine
    must find the images under the same paths, and have this version of hyperpq and the package of
    the network. As a context it ends the processes.

    Parameters
    ----------
    address : str
        See `Cluster`.
    count : int, optional
        Number of workers; by default one for each GPU of the cluster, or one for each two cores
        where it has none.
    device : {"auto", "cpu", "cuda"}
        What the network runs on; ``auto`` is ``cuda`` if the cluster has GPUs.

    Raises
    ------
    InvalidInputError
        If the number or the device is another one.
    MissingDependencyError, ClusterError
        If there is no Ray or no cluster, or it has not as much.
    """

    def __init__(
        self, address: str = "local", *, count: int | None = None, device: str = "auto"
    ) -> None:
        if count is not None and (type(count) is not int or count < 1):
            raise InvalidInputError(
                f"count is {count!r}; expected a number of workers of 1 or more."
            )
        if device not in ("auto", "cpu", "cuda"):
            raise InvalidInputError(
                f"device is {device!r}; expected 'auto', 'cpu' or 'cuda', as each worker has one."
            )
        self._cluster = Cluster(address)
        try:
            machines = self._cluster.machines()
            on_gpus = device == "cuda" or (device == "auto" and any(m.gpus for m in machines))
            self._device = "cuda" if on_gpus else "cpu"
            self.count, self._share = divide_machines(machines, count, on_gpus)
        except BaseException:
            self._cluster.close()
            raise
        self._pool: Pool | None = None
        self._identity: dict[str, Any] | None = None

    def stream_groups(
        self,
        groups: Iterable[Sequence[Source]],
        backbone: Backbone,
        options: ReadOptions,
        phase: Phase | None = None,
    ) -> Generator[Features, None, None]:
        """Encode groups of images in order, see `hyperpq.images.extract.stream_groups`.

        Raises
        ------
        BackboneError
            If the network cannot be loaded by its name there, or is another one.
        ClusterError
            If a part ends each process that encodes it, or the cluster is gone.
        """
        pool = self._pool_of(backbone)
        # Each worker has threads for its own cores.
        options = replace(options, workers=self._share.cpus)
        calls = ((part, (part.sources, options)) for part in _parts(groups))
        done: list[Features] = []
        for part, features in pool.in_order("encode", calls):
            shifted = replace(
                features,
                rows=features.rows + part.start,
                skipped=[(row + part.start, reason) for row, reason in features.skipped],
                unavailable={row + part.start for row in features.unavailable},
            )
            _check_available(part, features)
            done.append(shifted)
            if phase is not None:
                phase.advance(len(part.sources))
            if part.is_last:
                yield Features.concatenate(done)
                done = []

    def _pool_of(self, backbone: Backbone) -> Pool:
        """Workers with this network; those with another one are ended."""
        if backbone.reload is None:
            raise BackboneError(
                f"backbone {backbone.name!r} is an object of this process; expected one that "
                "`load_backbone` has made, which workers can load by its name."
            )
        identity = backbone.identity()
        if self._pool is None or self._identity != identity:
            self._end_pool()
            network = _Network(backbone.name, identity, backbone.tuned, self._device)
            self._pool = Pool(self._cluster, _Encoder, (network,), self.count, self._share)
            self._identity = identity
        return self._pool

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def close(self) -> None:
        """End the workers, and Ray if it was started for them."""
        self._end_pool()
        self._cluster.close()


def _check_available(part: _Part, features: Features) -> None:
    """Raise unless what a worker cannot read cannot be read here either."""
    for row in features.unavailable:
        source = part.sources[row]
        if isinstance(source, bytes) and os.access(source, os.R_OK):
            raise ClusterError(
                f"a worker cannot read {os.fsdecode(source)}, which this machine can read; "
                "expected the images under the same paths on every machine of the cluster."
            )


def _parts(groups: Iterable[Sequence[Source]]) -> Iterator[_Part]:
    for group in groups:
        for start in range(0, max(1, len(group)), PART_SIZE):
            yield _Part(group[start : start + PART_SIZE], start, start + PART_SIZE >= len(group))
