"""Output that several commands share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

if TYPE_CHECKING:
    from hyperpq.progress import RichProgress, SilentProgress

Facts: TypeAlias = list[tuple[str, object]]
"""Names and values of a summary."""


def progress(quiet: bool, bars: bool = True) -> RichProgress | SilentProgress:
    """Progress bars on a terminal, and none elsewhere; the library's warnings go to stderr."""
    from hyperpq.progress import RichProgress, SilentProgress

    logger = logging.getLogger("hyperpq")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("hyperpq: %(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    logger.handlers = [handler]
    return RichProgress() if bars and sys.stderr.isatty() and not quiet else SilentProgress()


def emit(text: str) -> None:
    """Write results to stdout; the names of files keep their bytes."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def warn(path: bytes, reason: str) -> None:
    """Write why an image could not be read to stderr."""
    click.echo(f"hyperpq: {name(path)}: {reason}", err=True)


def name(path: bytes) -> str:
    """A path as text, for people and for JSON."""
    return os.fsdecode(path)


def table(facts: Iterable[tuple[str, object]]) -> str:
    """Names and values in aligned lines."""
    rows = [(label, str(value)) for label, value in facts]
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
    return f"{len(skipped)} (e.g. {name(path)}: {reason}), all in {index_path / 'skipped.csv'}"
