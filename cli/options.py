"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class _PathType(click.Path):
    """A path. An empty path, such as an unset shell variable, would mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty; expected a path.", param, ctx)
        return super().convert(value, param, ctx)


class _TextType(click.ParamType):
    """Text in UTF-8, whatever the locale is."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return os.fsencode(value).decode("utf-8")
        except UnicodeDecodeError:
            self.fail("the text is not UTF-8.", param, ctx)


# Whether a path can be read is for the command to say: that is no wrong usage.
PATH = _PathType(path_type=Path, readable=False)
TEXT = _TextType()

index_option = click.option(
    "--index",
    "index_path",
    type=PATH,
    envvar="HYPERPQ_INDEX",
    default=Path("hyperpq-index"),
    show_default="$HYPERPQ_INDEX or ./hyperpq-index",
    help="Directory of the index.",
)
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
    type=click.IntRange(min=0),
    default=0,
    show_default="one per core",
    help="Number of threads that decode images.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    show_default="one per core",
    help="Number of threads of the search.",
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
    help="Name of the HDF5 dataset or the Parquet column, if a file has several.",
)
exclude_option = click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Exclude files and folders that match a pattern in .gitignore syntax. The option can be "
    "repeated. A file .hyperpqignore in a folder has the same effect.",
)
hidden_option = click.option(
    "--include-hidden", is_flag=True, help="Include hidden files and system folders."
)


def training_options(command: F) -> F:
    """Add the options of commands that train a codec; `given` leaves out those not used."""
    for option in (
        click.option(
            "--epochs",
            type=click.IntRange(min=0),
            help="Number of training epochs. [default: that of the recipe]",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), help="Seed of all random choices. [default: 0]"
        ),
        click.option(
            "--metric",
            type=click.Choice(["l1", "geodesic", "chord"]),
            help="How the distances of the subspaces are added up. [default: l1]",
        ),
        click.option(
            "--recipe",
            type=click.Choice(["default", "paper"]),
            help="Settings of the training. [default: default]",
        ),
        click.option(
            "--objective",
            type=click.Choice(["semantic", "fidelity"]),
            help="What codes preserve: which items belong together (semantic), or the exact "
            "neighbours of the features (fidelity). [default: semantic]",
        ),
        click.option(
            "--bits",
            type=int,
            help="Length of a code in bits, a multiple of 8 from 8 to 512. [default: 64]",
        ),
    ):
        command = option(command)
    return command


def given(**options: Any) -> dict[str, Any]:
    """The options that the user has given."""
    # By identity: 0 is a value, though it equals False.
    return {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != ()
    }


def only_for_vectors(dataset: str | None) -> None:
    """Refuse `--dataset` where images are given."""
    if dataset is not None:
        raise click.UsageError("--dataset is for files of vectors; images were given.")
