"""Progress of long work, in phases with a rate and the time left.

The library reports to a `Progress`. `SilentProgress` is the default, and `RichProgress` draws bars
on a terminal; `as_progress` says what a parameter ``progress`` may be.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from hyperpq.errors import InvalidInputError


class Phase(Protocol):
    """A phase of work that is under way."""

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Report ``n`` more units; ``facts``, such as a loss, are shown beside the bar."""


class Progress(Protocol):
    """What long work reports to.

    Attributes
    ----------
    seconds : dict of str to float
        Duration of each phase that has ended.
    """

    seconds: dict[str, float]

    def phase(
        self, name: str, total: int | None, unit: str = "images"
    ) -> AbstractContextManager[Phase]:
        """Open a phase of ``total`` units; None if their number is not known."""


ProgressLike: TypeAlias = Progress | bool | None
"""What a parameter ``progress`` may be: True for bars on stderr, False or None for nothing."""


class _SilentPhase:
    def advance(self, n: int = 1, **facts: Any) -> None:
        pass


class SilentProgress:
    """Progress that is not shown.

    Attributes
    ----------
    seconds : dict of str to float
        Duration of each phase.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None, unit: str = "images") -> Iterator[Phase]:
        """Open a phase; its duration is added to ``seconds[name]``."""
        start = time.perf_counter()
        try:
            yield self._open(name, total, unit)
        finally:
            self._close()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _open(self, name: str, total: int | None, unit: str) -> Phase:
        return _SilentPhase()

    def _close(self) -> None:
        pass


class _RichPhase:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def advance(self, n: int = 1, **facts: Any) -> None:
        text = "  ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()
        )
        self._bar.update(self._task, advance=n, facts=text)


class RichProgress(SilentProgress):
    """Progress as bars on stderr, with the name, share, rate, time left and facts of a phase."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def _open(self, name: str, total: int | None, unit: str) -> Phase:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as _RichBars
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Any) -> Text:
                # Work that was done in one step has no measured speed, only a duration.
                whole = task.completed / task.elapsed if task.elapsed else None
                speed = task.finished_speed or task.speed or whole
                digits = 0 if speed and speed >= 10 else 1
                return Text(f"{speed:,.{digits}f} {unit}/s" if speed else "", style="cyan")

        self._bar = bar = _RichBars(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", style="dim"),
            console=Console(stderr=True),
        )
        bar.start()
        return _RichPhase(self._bar, self._bar.add_task(name, total=total, facts=""))

    def _close(self) -> None:
        for task in self._bar.tasks:
            if task.total is None:
                self._bar.update(task.id, total=task.completed)
        self._bar.stop()


def as_progress(progress: ProgressLike) -> Progress:
    """The object to report to: `RichProgress` for True, `SilentProgress` for False and None.

    Raises
    ------
    InvalidInputError
        If it is nothing that can be reported to.
    """
    if progress is None or isinstance(progress, bool):
        return RichProgress() if progress else SilentProgress()
    if not hasattr(progress, "phase"):
        raise InvalidInputError(
            f"progress is of type {type(progress).__name__}; expected True, False or an object "
            "with a method `phase`, such as hyperpq.progress.RichProgress()."
        )
    return progress
