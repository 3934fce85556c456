"""`SpreadBackbone`: one network on several devices, which take batches in turn.

Each device has a process of its own. A batch is hundreds of kernels, which threads of one process
start under one interpreter lock, and `whole_float32` lets one of them in at a time. With two cores
as devices and lite0 as a TorchScript file, one device encoded 10.3 images a second, two in threads
11.4, and two in processes 17.5 (medians of 5 rounds in turn, on a busy machine).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hyperpq.backbones.base import Backbone
from hyperpq.backbones.device_processes import DeviceProcesses, NetworkSettings
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import BackboneError, InvalidInputError
from hyperpq.utils.forks import ForkSafeLock
from hyperpq.utils.worker_process import processes_possible

if TYPE_CHECKING:
    import torch


class SpreadBackbone(Backbone):
    """The same network on several devices.

    A batch is computed by one device as a whole. So features are those of the network on one of
    them, in the same order, if the devices are alike. This process does not load the network: the
    processes of the devices do, and say what it is. They end with this object.

    Parameters
    ----------
    settings : NetworkSettings
        The network.
    devices : sequence of str
        ``cpu`` or ``cuda:N``.
    open_network : callable
        See `Backbone`; used only if the network can be fine-tuned.

    Raises
    ------
    InvalidInputError
        If processes cannot be started here.
    HyperPQError
        As `load_backbone` does.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        devices: Sequence[str],
        open_network: Callable[[], torch.nn.Module],
    ) -> None:
        if not processes_possible():
            raise InvalidInputError(
                f"device is {','.join(devices)!r}, but this system or interpreter cannot start a "
                "process for each of several devices; give one device."
            )
        self._settings, self._devices = settings, tuple(devices)
        self._starting = ForkSafeLock()
        processes = DeviceProcesses(settings, devices)
        first = processes.facts[0]
        identity, normalization = first.identity, first.identity["normalization"]
        super().__init__(
            settings.name,
            identity["d"],
            Preprocessing.from_dict(identity["preprocessing"]),
            first.base_hash,
            devices[0],
            mean=normalization["mean"],
            std=normalization["std"],
        )
        self.take_tuned(settings.tuned)
        self.precision = settings.precision
        if first.trainable_prefix is not None:
            self.open_network, self.trainable_prefix = open_network, first.trainable_prefix
        self.batch_size = min(facts.batch_size for facts in processes.facts)
        self.batches_in_flight = processes.batches_in_flight
        self._hold(processes)

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices, in the order in which they take turns."""
        return self._devices

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        return self._begin(pixels)()

    def _begin(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        return self._processes_here().begin(pixels)

    def _processes_here(self) -> DeviceProcesses:
        """The processes of this process: a forked child starts its own."""
        if self._owner != os.getpid():
            with self._starting:
                if self._owner != os.getpid():
                    self._hold(DeviceProcesses(self._settings, self._devices))
        return self._processes

    def _hold(self, processes: DeviceProcesses) -> None:
        # Each process has read the network by itself.
        if any(facts.identity != self.identity() for facts in processes.facts):
            raise BackboneError(
                f"the file of backbone {self.name!r} has changed since it was loaded; load it "
                "again."
            )
        self._processes, self._owner = processes, os.getpid()
