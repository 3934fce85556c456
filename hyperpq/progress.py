"""Progress of long work, in phases with a rate and the time left.

The library reports to a `Progress`. `SilentProgress` is the default, `RichProgress` draws bars on a
terminal, and `LineProgress` writes a line now and then; `as_progress` says what a parameter
``progress`` may be.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from hyperpq.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Self


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


# Names of the time before the first phase, when modules are loaded, and of that between two.
_BEFORE, _BETWEEN = "loading", "working"


class _SilentPhase:
    def advance(self, n: int = 1, **facts: Any) -> None:
        pass


class SilentProgress:
    """Progress that is not shown.

    As a context manager, a progress that is shown also says that work goes on between two phases.

    Attributes
    ----------
    seconds : dict of str to float
        Duration of each phase.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._is_watched = self._is_between = False

    def __enter__(self) -> Self:
        self._is_watched = True
        self._begin_between()
        return self

    def __exit__(self, *error: object) -> None:
        self._end_between()
        self._is_watched = False

    def _begin_between(self) -> None:
        if self._is_watched and not self._is_between:
            self._open(_BETWEEN if self.seconds else _BEFORE, None, "")
            self._is_between = True

    def _end_between(self) -> None:
        if self._is_between:
            self._close()
            self._is_between = False

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None, unit: str = "images") -> Iterator[Phase]:
        """Open a phase; its duration is added to ``seconds[name]``."""
        self._end_between()
        start = time.perf_counter()
        try:
            yield self._open(name, total, unit)
        finally:
            self._close()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self._begin_between()

    def _open(self, name: str, total: int | None, unit: str) -> Phase:
        return _SilentPhase()

    def _close(self) -> None:
        pass


class _RichPhase:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def advance(self, n: int = 1, **facts: Any) -> None:
        self._bar.update(self._task, advance=n, facts=_facts(facts))


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
                if not task.completed:
                    return Text(duration(task.elapsed or 0), style="cyan")
                # Work that was done in one step has no measured speed, only a duration.
                whole = task.completed / task.elapsed if task.elapsed else None
                speed = task.finished_speed or task.speed or whole
                digits = 0 if speed and speed >= 10 else 1
                return Text(f"{speed:,.{digits}f} {unit}/s" if speed else "", style="cyan")

        self._bar = bar = _RichBars(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(),
            *([MofNCompleteColumn()] if total is not None else []),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", style="dim"),
            console=Console(stderr=True),
            transient=name in (_BEFORE, _BETWEEN),
        )
        bar.start()
        return _RichPhase(self._bar, self._bar.add_task(name, total=total, facts=""))

    def _close(self) -> None:
        for task in self._bar.tasks:
            if task.total is None:
                self._bar.update(task.id, total=task.completed)
        self._bar.stop()


class _LinePhase:
    """A phase that a thread describes in a line now and then, until it is closed."""

    def __init__(self, name: str, total: int | None, unit: str, progress: LineProgress) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._progress, self._begun = progress, time.monotonic()
        self._done, self._facts, self._at = 0, "", self._begun
        self._closed = threading.Event()
        # It dies with the program.
        self._thread = threading.Thread(target=self._write, name="progress", daemon=True)
        self._thread.start()

    def advance(self, n: int = 1, **facts: Any) -> None:
        self._done += n
        self._facts, self._at = _facts(facts), time.monotonic()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._closed.wait(self._progress.pause(self._begun)):
            seconds, at = time.monotonic() - self._begun, self._at - self._begun
            self._progress.show(self.line(seconds, at))

    def line(self, seconds: float, at: float) -> str:
        """The state of the phase after some seconds, ``at`` of which were over at the last report.

        Work comes in batches, so that the rate is that of the time until the last report.
        """
        if not self._total:
            count = f"{self._done:,} {self._unit}, " if self._done else ""
            return f"{self._name}: {count}{duration(seconds)}"
        parts = [f"{self._done:,} of {self._total:,} {self._unit}"]
        if self._done:
            rate = self._done / max(at, 1e-9)
            left = duration((self._total - self._done) / rate - (seconds - at))
            parts += [f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s", f"{left} left"]
        else:
            parts.append(duration(seconds))
        return f"{self._name}: " + ", ".join(part for part in (*parts, self._facts) if part)


class LineProgress(SilentProgress):
    """Progress as lines of text, for logs: the share that is done, the rate and the time left.

    The first line comes after two seconds, so that what is quick says nothing. The pauses grow with
    the duration: work of a minute writes some twenty lines, work of an hour a hundred more.

    Parameters
    ----------
    write : callable
        Takes each line.
    """

    FIRST_PAUSE, LAST_PAUSE, SHARE = 2.0, 60.0, 0.05

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write
        self._begun = self._shown = time.monotonic()
        self._phases: list[_LinePhase] = []

    def pause(self, begun: float = 0.0) -> float:
        """Seconds until the next line is due; a phase that has just begun has none to say."""
        now = time.monotonic()
        interval = max(self.FIRST_PAUSE, self.SHARE * (now - self._begun))
        due = self._shown + min(interval, self.LAST_PAUSE)
        return max(0.0, due - now, begun + self.FIRST_PAUSE / 2 - now)

    def show(self, line: str) -> None:
        """Write a line."""
        self._shown = time.monotonic()
        self._write(line)

    def _open(self, name: str, total: int | None, unit: str) -> Phase:
        self._phases.append(_LinePhase(name, total, unit, self))
        return self._phases[-1]

    def _close(self) -> None:
        self._phases.pop().close()


def duration(seconds: float) -> str:
    """A duration in words: ``42 s``, ``5 min 10 s`` or ``3 h 20 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _facts(facts: dict[str, Any]) -> str:
    return "  ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()
    )


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
