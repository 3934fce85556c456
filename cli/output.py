"""Output that several commands share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from hyperpq.cli import streams
from hyperpq.cli.text import escaped, name, quoted

if TYPE_CHECKING:
    from hyperpq.images.build import BuildReport
    from hyperpq.progress import RichProgress, SilentProgress

Facts: TypeAlias = list[tuple[str, object]]
"""Names and values of a summary."""


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"hyperpq: {escaped(super().format(record))}"


def show_warnings(quiet: bool) -> None:
    """Write warnings of the library to stderr, one line each; ``quiet`` leaves them out."""
    logger = logging.getLogger("hyperpq")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    logger.handlers = [handler]


def progress(quiet: bool, bars: bool = True) -> RichProgress | SilentProgress:
    """Progress bars on a terminal, and none elsewhere; the library's warnings go to stderr."""
    from hyperpq.progress import RichProgress, SilentProgress

    show_warnings(quiet)
    return RichProgress() if bars and sys.stderr.isatty() and not quiet else SilentProgress()


def emit(text: str) -> None:
    """Write results to stdout, as UTF-8; bytes of names that are not UTF-8 stay as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def emit_summary(facts: Facts, out: Path | None = None) -> None:
    """Write what a command did to stdout, unless that is closed.

    If results went to a device or a pipe ``out``, which may be stdout, nothing is added to them.
    """
    from hyperpq.utils.output_files import is_stream

    if not streams.stdout_is_missing() and (out is None or not is_stream(out)):
        emit(table(facts))


def names(paths: Iterable[bytes], *, null: bool) -> str:
    """A list of paths for other programs, and on a terminal for people.

    The paths have their bytes, and each is followed by a NUL (``null``) or the end of a line.
    """
    if null:
        return "".join(f"{name(path)}\0" for path in paths)
    show = quoted if streams.stdout_is_terminal() else name
    return "".join(f"{show(path)}\n" for path in paths)


def note(message: str) -> None:
    """Write a line to stderr."""
    click.echo(f"hyperpq: {escaped(message)}", err=True)


def warn(path: bytes, reason: str) -> None:
    """Write why an image could not be read to stderr."""
    note(f"{quoted(path)}: {reason}")


def table(facts: Iterable[tuple[str, object]]) -> str:
    """Names and values in aligned lines."""
    rows = [(label, escaped(str(value))) for label, value in facts]
    width = max((len(label) for label, _ in rows), default=0)
    return "".join(f"{label:<{width}}  {value}\n" for label, value in rows)


def seconds(spent: Mapping[str, float]) -> str:
    """The duration of each phase, in one line."""
    return ", ".join(f"{phase} {value:.1f} s" for phase, value in spent.items()) or "none"


def skipped_summary(skipped: Mapping[bytes, str], index_path: Path) -> str:
    """How many files were skipped, with an example, and where all of them are listed."""
    if not skipped:
        return "0"
    path, reason = next(iter(sorted(skipped.items())))
    return f"{len(skipped)} (e.g. {quoted(path)}: {reason}), all in {index_path / 'skipped.csv'}"


def unread(report: BuildReport, index_path: Path) -> Facts:
    """What a build did not read: skipped files, images that it kept all the same, other files."""
    from hyperpq.images.build.options import other_files

    facts: Facts = [("skipped", skipped_summary(report.skipped, index_path))]
    if report.kept:
        facts.append(("kept", f"{report.kept:,} that cannot be read now"))
    if report.other:
        facts.append(("not read", other_files(report.other)))
    return facts
