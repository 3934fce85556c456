"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from hyperpq.cli.index_option import FOLDER as FOLDER
from hyperpq.cli.index_option import INDEX_NAME as INDEX_NAME
from hyperpq.cli.index_option import PATH as PATH
from hyperpq.cli.index_option import SOURCE as SOURCE
from hyperpq.cli.index_option import changed_index_option as changed_index_option
from hyperpq.cli.index_option import completed_paths
from hyperpq.cli.index_option import index_option as index_option
from hyperpq.cli.index_option import new_index_option as new_index_option
from hyperpq.cli.index_option import verified_index_option as verified_index_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])
_NO_EXCLUDE = "hyperpq.no_exclude"


class _TextType(click.ParamType):
    """Text in UTF-8, whatever the locale is."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return os.fsencode(value).decode("utf-8")
        except UnicodeDecodeError:
            self.fail("the text is not UTF-8.", param, ctx)


class _NameType(click.ParamType):
    """The name of an image, of a folder or of a list of names, as it was typed."""

    name = "path"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return completed_paths(incomplete, "file")


class Whole(click.IntRange):
    """A whole number; click calls it an "integer range", also where it is none at all."""

    name = "integer"


class _WorkersType(click.ParamType):
    """How images are decoded, as `hyperpq.images.decoders.Workers` reads it."""

    name = "workers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if isinstance(value, str):
            from hyperpq.images.decoders import Workers

            Workers.of(value)
            return int(value) if value.isdecimal() else value
        return int(value)


class _CellsType(click.ParamType):
    """A number of cells, or ``auto``; 0, for none, only where there may be cells already."""

    name = "cells"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if value == "auto" or isinstance(value, int):
            return value
        if not (value.isascii() and value.isdecimal() and int(value) >= self._least):
            self.fail(f"{value!r} is neither auto nor a number of cells.", param, ctx)
        return int(value)


CELLS, NEW_CELLS = _CellsType(1), _CellsType(0)
NAME = _NameType()
TEXT = _TextType()


k_option = click.option(
    "-k",
    "-n",
    "k",
    type=Whole(min=1),
    default=10,
    show_default=True,
    help="Number of results for each query.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Device for the network and the codec: auto, cpu, cuda or cuda:N.",
)
backbone_option = click.option(
    "--backbone",
    metavar="NAME",
    help="Image encoder to load instead of the name that the index records. It must be the same "
    "network, for instance a file that has moved.",
)
workers_option = click.option(
    "--workers",
    type=_WorkersType(),
    metavar="N|KIND[:N]",
    default=0,
    show_default="one per core",
    help="Number of workers that decode images, or their kind: threads, processes or device (the "
    "GPU decodes JPEG files), such as processes:8. By default processes read many files for a "
    "network on a GPU, and threads everything else.",
)
threads_option = click.option(
    "--threads",
    type=Whole(min=1),
    show_default="one per core",
    help="Number of threads of the search.",
)
groups_seed_option = click.option(
    "--seed",
    type=Whole(min=0),
    default=0,
    show_default=True,
    help="Seed of the groups of large collections.",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
null_option = click.option(
    "-0",
    "--null",
    is_flag=True,
    help="Names end with a NUL instead of the end of a line: those that are read from stdin and "
    "from @FILE, as `find -print0` writes them, and those that are printed one per line.",
)
dataset_option = click.option(
    "--dataset",
    type=TEXT,
    metavar="NAME",
    help="Name of the array of an .npz file, the HDF5 dataset or the Parquet column, if a file has "
    "several.",
)
hidden_option = click.option(
    "--include-hidden/--no-include-hidden",
    default=False,
    help="Include hidden files and system folders.",
)


def _patterns(
    context: click.Context, _: click.Parameter, patterns: tuple[str, ...]
) -> Sequence[str]:
    """The patterns of --exclude; an empty list, which is no default, for --no-exclude."""
    if not context.meta.get(_NO_EXCLUDE):
        return patterns
    if patterns:
        raise both_given("--exclude", "--no-exclude")
    return []


def _without_patterns(context: click.Context, _: click.Parameter, is_given: bool) -> None:
    context.meta[_NO_EXCLUDE] = is_given


def exclude_option(command: F) -> F:
    """The options that say what is not listed."""
    for option in (
        click.option(
            "--no-exclude",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_without_patterns,
            help="Exclude nothing any more: the index records the patterns of a folder.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="PATTERN",
            callback=_patterns,
            help="Exclude files and folders that match a pattern in .gitignore syntax. The option "
            "can be repeated. A file .hyperpqignore in a folder has the same effect.",
        ),
    ):
        command = option(command)
    return command


def is_given(name: str) -> bool:
    """Whether the user has given an option, by the name of its argument."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def given(**options: Any) -> dict[str, Any]:
    """The options that the user has given."""

    def is_used(name: str, value: object) -> bool:
        # By identity: 0 is a value, though it equals False.
        if value is False:
            return is_given(name)
        return value is not None and value != ()

    return {name: value for name, value in options.items() if is_used(name, value)}


def shown(name: str) -> str:
    """An option as it is typed, by the name of its argument."""
    return f"--{name.replace('_', '-')}"


def refuse(what: str, instead: str, **options: Any) -> None:
    """Refuse options that have no effect on what is given: ``what``, and not ``instead``."""
    if names := list(map(shown, given(**options))):
        verb = "is" if len(names) == 1 else "are"
        raise click.UsageError(f"{' and '.join(names)} {verb} for {instead}; {what} were given.")


def both_given(one: str, other: str) -> click.UsageError:
    """The error for two options of which only one can be given."""
    return click.UsageError(f"{one} and {other} exclude each other; choose one.")


def format_of(style: str | None, as_json: bool) -> str | None:
    """The format that `--format` and `--json` choose together; None if neither is given."""
    if as_json and style not in (None, "json"):
        raise both_given("--json", f"--format {style}")
    return "json" if as_json else style
