"""`Cluster`: the connection to Ray."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType

from typing_extensions import Self

from hyperpq.errors import ClusterError, InvalidInputError
from hyperpq.utils.imports import need


@dataclass(frozen=True)
class Share:
    """What a machine has, or what a process takes of one.

    Attributes
    ----------
    cpus, gpus : int
        Cores and GPUs.
    """

    cpus: int
    gpus: int = 0


class Closing(ABC):
    """Something that is closed at its end as a context."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Cluster(Closing):
    """A connection to Ray. As a context it ends a Ray that it has started.

    Parameters
    ----------
    address : str
        ``local`` starts Ray on this machine; ``auto`` is the cluster that this machine belongs to;
        otherwise ``HOST:PORT`` of the head of a cluster. Where the program is connected already,
        that connection is used, and stays.

    Raises
    ------
    InvalidInputError
        If the address is another one, such as that of a Ray Client.
    MissingDependencyError
        If Ray is not installed.
    ClusterError
        If there is no cluster at that address.
    """

    def __init__(self, address: str = "local") -> None:
        if not isinstance(address, str) or not address or "://" in address:
            raise InvalidInputError(
                f"address is {address!r}; expected 'local', 'auto' or HOST:PORT of a cluster that "
                "this machine belongs to."
            )
        self.ray: ModuleType = need("ray", "ray", "computations on a cluster")
        self._is_ours = not self.ray.is_initialized()
        if self._is_ours:
            try:
                self.ray.init(
                    address=address,
                    include_dashboard=False if address == "local" else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            # Also plain ones, as when a process of Ray is not there in time.
            except Exception as error:
                raise ClusterError(
                    f"Ray cannot be used at {address!r} ({first_line(error)}); expected 'local', "
                    "or a cluster that was started with `ray start`."
                ) from error

    def machines(self) -> list[Share]:
        """Cores and GPUs of each machine."""
        resources = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [Share(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in resources]

    def close(self) -> None:
        """End the connection, and Ray if it was started here."""
        if self._is_ours and self.ray.is_initialized():
            self.ray.shutdown()


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def divide_machines(
    machines: Sequence[Share], count: int | None, on_gpus: bool = False
) -> tuple[int, Share]:
    """Divide machines among processes.

    Parameters
    ----------
    machines : sequence of Share
        What each machine has.
    count : int, optional
        Number of processes; by default one for each GPU, or for each two cores without GPUs.
    on_gpus : bool
        Whether each process has a GPU.

    Returns
    -------
    int, Share
        How many processes there are, and what each has: as many cores as all of them can have.

    Raises
    ------
    ClusterError
        If the machines have no room for so many.
    """

    def fitting(share: Share) -> int:
        return sum(min(m.cpus // share.cpus, m.gpus if share.gpus else m.cpus) for m in machines)

    gpus = int(on_gpus)
    most = fitting(Share(1, gpus))
    if count is None:
        count = most if on_gpus else max(1, fitting(Share(2)))
    if not 0 < count <= most:
        kind = "GPU" if on_gpus else "core"
        raise ClusterError(
            f"{count} workers were asked for; expected a cluster with a {kind} for each of them, "
            f"and this one has room for {most}."
        )
    cpus = max(
        n for n in range(1, max(m.cpus for m in machines) + 1) if fitting(Share(n, gpus)) >= count
    )
    return count, Share(cpus, gpus)
