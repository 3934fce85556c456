"""Progress as lines: what they say, how often, and what is shown between two phases."""

from __future__ import annotations

import itertools
import re
import threading

import pytest

from hyperpq import progress as module
from hyperpq.progress import LineProgress, RichProgress, SilentProgress, duration


class Clock:
    """Stands for the module `time`: each look at the clock takes a moment."""

    def __init__(self, step=0.001):
        self._times = itertools.count(step=step)

    def monotonic(self):
        return next(self._times)

    perf_counter = monotonic


@pytest.fixture
def lines(monkeypatch):
    """The lines of a progress whose pauses are over at once."""
    monkeypatch.setattr(LineProgress, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(LineProgress, "LAST_PAUSE", 0.01)
    return []


def wait_for(lines, pattern):
    """Wait until a line matches; the timeout of the tests ends what never comes."""
    while not any(re.fullmatch(pattern, line) for line in list(lines)):
        pass


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_line_has_the_share_the_rate_and_the_time_left():
    show = LineProgress(print)
    with show.phase("encode", 400) as phase:
        assert phase.line(3.0, 0.0) == "encode: 0 of 400 images, 3 s"
        phase.advance(100, loss=0.25)
        assert (
            phase.line(5.0, 5.0) == "encode: 100 of 400 images, 20 images/s, 15 s left, loss 0.25"
        )
        phase.advance(5)
        assert (
            phase.line(210.0, 210.0) == "encode: 105 of 400 images, 0.5 images/s, 9 min 50 s left"
        )
        # The rate stays until the next report, and the time that is left runs on.
        later = "encode: 105 of 400 images, 0.5 images/s, 9 min 40 s left"
        assert phase.line(220.0, 210.0) == later
    with show.phase("list", None, "files") as phase:
        assert phase.line(2.2, 2.0) == "list: 2 s"
        phase.advance(1200)
        assert phase.line(2.2, 2.0) == "list: 1,200 files, 2 s"
    assert list(show.seconds) == ["encode", "list"]


def test_pauses_grow_with_the_duration(monkeypatch):
    monkeypatch.setattr(module, "time", Clock(step=1.0))
    show = LineProgress(print)
    begun = show._begun
    show._shown = begun
    assert 0 < show.pause() <= LineProgress.FIRST_PAUSE
    for spent, pause in ((1000, 50), (100_000, LineProgress.LAST_PAUSE)):
        monkeypatch.setattr(module.time, "monotonic", lambda at=begun + spent: at)
        show.show("a line")
        assert show.pause() == pytest.approx(pause, rel=0.01)


def test_a_phase_that_has_just_begun_says_nothing(monkeypatch):
    """A line such as "prepare: 0 s" where the phase before it had been silent."""
    monkeypatch.setattr(module, "time", Clock(step=0.0))
    show = LineProgress(print)
    show._shown = -100.0
    assert show.pause(begun=-0.2) == pytest.approx(LineProgress.FIRST_PAUSE / 2 - 0.2)
    assert show.pause(begun=-10.0) == 0


def test_what_happens_between_phases_is_shown(lines):
    with LineProgress(lines.append) as show:
        wait_for(lines, r"loading: \d s")
        with show.phase("work", 10, "steps"):
            wait_for(lines, r"work: 0 of 10 steps, \d s")
        wait_for(lines, r"working: \d s")
    assert list(show.seconds) == ["work"]
    # Every thread that writes has ended.
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_quick_work_says_nothing(lines, monkeypatch):
    monkeypatch.setattr(LineProgress, "FIRST_PAUSE", 1e6)
    monkeypatch.setattr(LineProgress, "LAST_PAUSE", 1e6)
    with LineProgress(lines.append) as show, show.phase("work", 10) as phase:
        phase.advance(10)
    assert lines == []


@pytest.mark.parametrize("make", [SilentProgress, RichProgress, lambda: LineProgress(print)])
def test_phases_are_measured_and_end_with_an_error(make):
    with pytest.raises(KeyError), make() as show:
        for name in ("one", "two", "one"):
            with show.phase(name, None) as phase:
                phase.advance(3)
        with show.phase("torn", 2):
            raise KeyError
    assert list(show.seconds) == ["one", "two", "torn"]
    assert show._is_between is False
