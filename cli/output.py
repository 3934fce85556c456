"""Output that several commands share."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from hyperpq.cli import streams
from hyperpq.cli.text import escaped, name, quoted, word
from hyperpq.utils.locations import is_remote

if TYPE_CHECKING:
    from hyperpq.images import ForgetReport, ImageIndex
    from hyperpq.images.build import BuildReport
    from hyperpq.progress import SilentProgress

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


def progress(quiet: bool, is_long: bool = True) -> SilentProgress:
    """Progress bars on a terminal, and lines elsewhere; the library's warnings go to stderr.

    The variable ``HYPERPQ_PROGRESS`` chooses ``bars``, ``lines`` or ``none``. What is not long,
    such as a query of one image, shows nothing.
    """
    from hyperpq.progress import LineProgress, RichProgress, SilentProgress

    show_warnings(quiet)
    style = os.environ.get("HYPERPQ_PROGRESS") or ("bars" if sys.stderr.isatty() else "lines")
    if style not in ("bars", "lines", "none"):
        raise click.UsageError(
            f"the variable HYPERPQ_PROGRESS is {style!r}; expected bars, lines or none."
        )
    if quiet or not is_long or style == "none":
        return SilentProgress()
    return RichProgress() if style == "bars" else LineProgress(note)


def emit(text: str) -> None:
    """Write results to stdout, as UTF-8; bytes of names that are not UTF-8 stay as they are."""
    emit_to(None, [text])


def emit_to(out: Path | None, texts: Iterable[str]) -> None:
    """Write results to a file, completely or not at all; to stdout if there is none."""
    encoded = (text.encode("utf-8", "surrogateescape") for text in texts)
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(encoded)
        sys.stdout.buffer.flush()
        return
    from hyperpq.utils.output_files import written_aside

    with written_aside(out) as aside, open(aside, "xb") as file:
        file.writelines(encoded)


def format_of_file(style: str | None, out: Path | None, endings: Mapping[str, str]) -> str:
    """The format that was chosen, or that of the ending of a file; ``table`` without both."""
    if style is not None or out is None:
        return style or "table"
    if out.suffix.lower() not in endings:
        raise click.UsageError(
            f"{out} has none of the endings {', '.join(endings)}; choose a format with --format."
        )
    return endings[out.suffix.lower()]


def emit_summary(facts: Facts, out: Path | None = None) -> None:
    """Write what a command did to stdout, unless that is closed.

    If results went to a device or a pipe ``out``, which may be stdout, nothing is added to them.
    """
    from hyperpq.utils.output_files import is_stream

    if not streams.stdout_is_missing() and (out is None or not is_stream(out)):
        emit(table(facts))


def warn_of_values(index_path: Path, where: str | None) -> None:
    """Say which values of a condition no row of an index has, with the nearest that there is."""
    if where is None:
        return
    from hyperpq.index.view import RowView
    from hyperpq.store import IndexStore

    for value in RowView(0, IndexStore.open(index_path)).unknown_values(where):
        note(str(value))


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
    """The duration of each phase that took time, in one line."""
    # What would be 0.0 is left out: the line would have 140 characters after a build.
    long = [f"{phase} {value:.1f} s" for phase, value in spent.items() if value >= 0.05]
    return ", ".join(long) or "less than 0.1 s"


def skipped_summary(skipped: Mapping[bytes, str], index_path: Path) -> str:
    """How many files were skipped, with an example, and where all of them are listed."""
    if not skipped:
        return "0"
    path, reason = next(iter(sorted(skipped.items())))
    return f"{len(skipped)} (e.g. {quoted(path)}: {reason}), all in {index_path / 'skipped.csv'}"


def query_command(images: ImageIndex, index_path: Path) -> str:
    """A command that searches an index, as it can be typed here."""
    words = [*_program(), "query", *map(_near, _example(images))]
    if index_path != Path("hyperpq-index"):
        words += ["--index", str(index_path)]
    backbone = images.backbone_identity["name"]
    if backbone.startswith("torchscript:"):
        words += ["--backbone", backbone]
    return " ".join(word(os.fsencode(text)) for text in words)


def _program() -> list[str]:
    """How this program is called: by its name if that is on the PATH."""
    if shutil.which("hyperpq"):
        return ["hyperpq"]
    script = os.path.abspath(sys.argv[0])
    return [script] if os.path.basename(script) == "hyperpq" else [sys.executable, "-m", "hyperpq"]


def _example(images: ImageIndex) -> list[bytes]:
    """The path of one image, if there is any."""
    for rows in images.index.collection.view().batches(1):
        return list(rows.paths or ())
    return []


def _near(path: bytes) -> str:
    """A path as it is seen from the working directory, if it is below that."""
    shown = os.fsdecode(path)
    if is_remote(path):
        return shown
    relative = os.path.relpath(shown)
    if relative.startswith(os.pardir):
        return shown
    # It would be an option, or a list of names.
    return os.path.join(os.curdir, relative) if relative[0] in "-@" else relative


def changes(report: BuildReport, images: ImageIndex, index_path: Path) -> Facts:
    """What an update changed, and what it did not read."""
    facts: Facts = [("added", f"{report.added:,}"), ("removed", f"{report.removed:,}")]
    if report.moved:
        facts.append(("moved", f"{report.moved:,}, which were not encoded again"))
    for former, present in report.places.items():
        facts.append(("folder", f"{quoted(present)}, which was {quoted(former)}"))
    if report.relearned:
        record = images.index.view().training
        if record is None or record.learned:
            facts.append(("learned again", report.relearned))
        else:
            facts.append(("fitted again", f"{report.relearned} (PCA and k-means)"))
    return facts + unread(report, index_path)


def added_again(report: ForgetReport) -> Facts:
    """How many images the next update adds again, and how to prevent that."""
    return [
        (
            "next update",
            f"adds {count:,} again from {quoted(folder)}; to prevent that, exclude them (a file "
            ".hyperpqignore, or --exclude) or move them away",
        )
        for folder, count in report.again.items()
    ]


def unread(report: BuildReport, index_path: Path) -> Facts:
    """What a build did not read: skipped files, images that it kept all the same, other files."""
    from hyperpq.images.build.options import other_files

    facts: Facts = [("skipped", skipped_summary(report.skipped, index_path))]
    if report.kept:
        facts.append(("kept", f"{report.kept:,} that cannot be read now"))
    if report.other:
        facts.append(("not read", other_files(report.other)))
    return facts
