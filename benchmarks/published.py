"""Published runs: what a page is written from.

Beside the pages, ``runs/SET-runs.jsonl`` and the like hold every run that a page shows, and
``runs/SET.json`` describes the data set (`SetRecord`). A page is a function of these files alone. A
benchmark adds its runs to them, so it never takes a set or a run out of a page. It refuses to add
figures to those of a set that only has the same name: exact search on the features must give the
published figures.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.baselines import exact
from benchmarks.featuresets import FeatureSet
from benchmarks.runlog import Run, RunLog
from hyperpq.errors import InvalidInputError
from hyperpq.evaluation import mean_average_precision

FOLDER = "runs"
# Fields of a run: the commit that it was measured at, or, of earlier runs, published with.
COMMITS = ("commit", "published_with")
# Features of the same images differ in their last bits from processor to processor. That moves the
# figures of exact search by 10^-6 on CIFAR-10 and on the 15 scenes.
TOLERANCE = 2e-4


@dataclass(frozen=True)
class SetRecord:
    """A data set as its published runs saw it.

    Attributes
    ----------
    name : str
        Name for reports.
    folder : str
        Name of the folder of its runs.
    top : int
        The k of mAP@k.
    n_classes, n_query, n_database, n_train : int
        Number of classes, of queries, of images that are searched, and of images that train.
    more : int
        How many of those that train have no views.
    missing : int
        Number of images that the data set names but that were not on disk.
    exact : dict
        mAP@k and mAP@10 of exact search on the features.
    """

    name: str
    folder: str
    top: int
    n_classes: int
    n_query: int
    n_database: int
    n_train: int
    more: int
    missing: int
    exact: dict[str, float]

    def differences(self, other: SetRecord) -> list[str]:
        """In what the other is another data set, in words; empty if it is the same."""
        out = []
        for field in dataclasses.fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if field.name == "exact":
                out += [
                    f"exact search has {name} {mine[name]:.4f} instead of {others[name]:.4f}"
                    for name in mine
                    if abs(mine[name] - others[name]) > TOLERANCE
                ]
            elif mine != others:
                out.append(f"{field.name} is {mine!r} instead of {others!r}")
        return out


def describe_set(features: FeatureSet) -> SetRecord:
    """Describe a data set; searches its features exactly."""
    protocol = features.protocol
    k = min(protocol.top, len(features.database))
    found = exact(features.query, features.database, k)
    relevant = protocol.relevant(slice(None), found)
    return SetRecord(
        name=protocol.name,
        folder=features.folder.name,
        top=protocol.top,
        n_classes=len(protocol.names),
        n_query=len(features.query),
        n_database=len(features.database),
        n_train=len(features.train_rows),
        more=len(features.train_rows) - features.n_viewed,
        missing=protocol.missing,
        exact={
            f"mAP@{protocol.top}": mean_average_precision(relevant, protocol.top),
            "mAP@10": mean_average_precision(relevant, 10),
        },
    )


def read_set(folder: str, out: Path) -> SetRecord | None:
    """The published description of a set; None if nothing of it is published."""
    file = out / FOLDER / f"{folder}.json"
    return SetRecord(**json.loads(file.read_text("utf-8"))) if file.exists() else None


def check_set(record: SetRecord, out: Path) -> None:
    """Refuse features that are not those of the published figures of the same name.

    Raises
    ------
    InvalidInputError
        If they are not.
    """
    published = read_set(record.folder, out)
    if published is not None and (found := record.differences(published)):
        raise InvalidInputError(
            f"{out} publishes figures of other features named {record.folder} ({found[0]}); "
            "give the folder of another page with --out."
        )


def publish(
    record: SetRecord, log: RunLog, out: Path, wanted: Callable[[Run], bool] = lambda run: True
) -> None:
    """Add the wanted runs of a log to the published ones of the set; those of the same key go."""
    check_set(record, out)
    write_text(
        out / FOLDER / f"{record.folder}.json",
        json.dumps(dataclasses.asdict(record), indent=1) + "\n",
    )
    published = RunLog(runs_file(record.folder, log.file.name, out), log.fields)
    published.update(run for run in log.runs.values() if wanted(run))


def runs_file(folder: str, name: str, out: Path) -> Path:
    """Where the runs of a set that are named ``name`` in the cache are published."""
    return out / FOLDER / f"{folder}-{name}"


def published_sets(name: str, out: Path) -> list[SetRecord]:
    """The described sets that have published runs of this name, sorted by the set's folder."""
    files = sorted((out / FOLDER).glob("*.json"), key=lambda file: file.stem)
    records = [SetRecord(**json.loads(file.read_text("utf-8"))) for file in files]
    return [one for one in records if runs_file(one.folder, name, out).exists()]


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.part")
    unfinished.write_text(text, "utf-8")
    os.replace(unfinished, file)


def take_up(
    log: RunLog, published: Iterable[Run], is_current: Callable[[Run], bool]
) -> tuple[int, int]:
    """Copy published runs that are current into the log, unless it has its own.

    Returns
    -------
    taken, left : int
        Number of runs that were copied, and of those that are not current.
    """
    taken = left = 0
    for run in published:
        if is_current(run):
            own = log.runs.get(log.key_of(run))
            if own is None or not is_current(own):
                log.append(run)
                taken += 1
        else:
            left += 1
    return taken, left


def take_up_published(
    log: RunLog, folder: str, out: Path, is_current: Callable[[Run], bool]
) -> None:
    """`take_up` the published runs of a set, and say how many were taken up."""
    published = RunLog(runs_file(folder, log.file.name, out), log.fields).runs.values()
    taken, left = take_up(log, published, is_current)
    print(f"took up {taken} published runs; {left} others are not as they would be now")


def shared_facts(runs: Iterable[Run], fields: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """The different values of some fields, in the order of the runs."""
    return list(dict.fromkeys(tuple(run.get(field) for field in fields) for run in runs))


def at_commit(commits: Sequence[str | None]) -> str:
    """The values of `COMMITS` in words, to follow the machine."""
    measured, published = commits
    if measured:
        return f", commit {measured}"
    return f", published with commit {published}" if published else ""
