"""The option --ray: builds and searches on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from hyperpq.cli import options

if TYPE_CHECKING:
    from hyperpq.images.decoders import WorkersLike
    from hyperpq.scan.scanner import Scanner

ray_option = click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="Decode and encode images on a Ray cluster: local, auto (the cluster of this machine) or "
    "HOST:PORT. --workers is then the number of processes there: by default one for each GPU, or "
    "for each two cores where there is none. Needs the extra `ray`.",
)

scan_option = click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="Search on a Ray cluster, which holds the codes in memory: local, auto (the cluster of "
    "this machine) or HOST:PORT. Needs the extra `ray`.",
)
replicas_option = click.option(
    "--replicas",
    type=options.Whole(min=1),
    default=1,
    show_default=True,
    help="With --ray, how many processes search each part of the codes in turn.",
)


@contextmanager
def workers_at(address: str | None, workers: int | str, device: str) -> Iterator[WorkersLike]:
    """The workers that the options --ray, --workers and --device mean."""
    if address is None:
        yield workers
        return
    if isinstance(workers, str):
        raise click.UsageError(f"--workers is {workers}; expected a number, as --ray is given.")
    from hyperpq.distributed import RayWorkers

    with RayWorkers(address, count=workers or None, device=device) as found:
        yield found


@contextmanager
def scanner_at(address: str | None, replicas: int) -> Iterator[Scanner | None]:
    """What the options --ray and --replicas mean: what scans, or None for this machine."""
    if address is None:
        if replicas > 1:
            raise click.UsageError("--replicas is given without --ray; expected both.")
        yield None
        return
    from hyperpq.distributed import RayScanner

    with RayScanner(address, replicas=replicas) as scanner:
        yield scanner
