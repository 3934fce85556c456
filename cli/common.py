"""Options and output that several commands share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hyperpq.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])


class _PathType(click.Path):
    """A path; an empty one (an unset variable of the shell) would silently mean the folder here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty.", param, ctx)
        return super().convert(value, param, ctx)


PATH = _PathType(path_type=Path)

index_option = click.option(
    "--index",
    "index_path",
    type=PATH,
    envvar="HYPERPQ_INDEX",
    default=Path("hyperpq-index"),
    show_default="$HYPERPQ_INDEX, else ./hyperpq-index",
    help="Directory of the index.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
backbone_option = click.option(
    "--backbone",
    metavar="NAME",
    help="Image encoder, if it isn't to be loaded by the name that the index records; "
    "it must be the same network.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default="one a core",
    help="Decoding threads.",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
exclude_option = click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out what matches, in .gitignore syntax; repeatable. "
    "A .hyperpqignore file in a folder does the same.",
)
hidden_option = click.option(
    "--include-hidden", is_flag=True, help="Look into hidden and system folders too."
)


def training_options(command: F) -> F:
    """Options of whatever trains a codec; unset ones stay out of `given`."""
    for option in (
        click.option("--epochs", type=click.IntRange(min=0), help="In place of the recipe's."),
        click.option("--seed", type=click.IntRange(min=0), help="Of every random choice. [0]"),
        click.option(
            "--metric",
            type=click.Choice(["l1", "geodesic", "chord"]),
            help="How distances add up over subspaces. [l1]",
        ),
        click.option(
            "--recipe", type=click.Choice(["default", "paper"]), help="Of the training. [default]"
        ),
        click.option(
            "--objective",
            type=click.Choice(["semantic", "fidelity"]),
            help="What codes are to keep: what belongs together, or the features' exact "
            "neighbours. [semantic]",
        ),
        click.option("--bits", type=int, help="Bits of a code, a multiple of 8. [64]"),
    ):
        command = option(command)
    return command


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    # By identity: 0 is a value, though it equals False.
    return {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != ()
    }


def progress(quiet: bool, bars: bool = True) -> Progress:
    """Bars on a terminal, silence elsewhere; warnings of the library go to stderr."""
    from hyperpq.progress import RichProgress, SilentProgress

    logger = logging.getLogger("hyperpq")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("hyperpq: %(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    logger.handlers = [handler]
    return RichProgress() if bars and sys.stderr.isatty() and not quiet else SilentProgress()


def emit(text: str) -> None:
    """Write results to stdout; names of files keep their bytes."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def name(path: bytes) -> str:
    """A path for people and JSON."""
    return os.fsdecode(path)


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Aligned lines of name and value."""
    rows = [(label, str(value)) for label, value in pairs]
    width = max((len(label) for label, _ in rows), default=0)
    return "".join(f"{label:<{width}}  {value}\n" for label, value in rows)


def seconds(spent: Mapping[str, float]) -> str:
    """Phases with their seconds, in one line."""
    return ", ".join(f"{phase} {value:.1f} s" for phase, value in spent.items()) or "none"


def skipped_summary(skipped: Mapping[bytes, str], index_path: Path) -> str:
    """How many files were left out, and where they are named."""
    if not skipped:
        return "0"
    path, reason = next(iter(sorted(skipped.items())))
    return f"{len(skipped)} (e.g. {name(path)}: {reason}), all in {index_path / 'skipped.csv'}"
