"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])
_NO_EXCLUDE = "hyperpq.no_exclude"
INDEX_NAME = "hyperpq-index"
"""Name of the directory of an index where no other is given."""
# What is there while an index is replaced, or after that was interrupted.
_NAMES_OF_INDEX = (INDEX_NAME, f"{INDEX_NAME}.old-hyperpq")


class _PathType(click.Path):
    """A path. An empty path, such as an unset shell variable, would mean the current folder."""

    def __init__(self, completed_as: str = "file") -> None:
        # Whether a path can be read is for the command to say: that is no wrong usage.
        super().__init__(path_type=Path, readable=False)
        self._completed_as = completed_as

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _paths(incomplete, self._completed_as)

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


class _NameType(click.ParamType):
    """The name of an image, of a folder or of a list of names, as it was typed."""

    name = "path"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _paths(incomplete, "file")


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


def _paths(incomplete: str, kind: str) -> list[CompletionItem]:
    """The answer that makes a shell complete names of files (``file``) or folders (``dir``)."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]


class _MinutesType(click.ParamType):
    """A number of minutes above 0."""

    name = "minutes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            minutes = float(value)
        except ValueError:
            minutes = 0.0
        if not 0 < minutes < float("inf"):
            option = "the option" if param is None else param.opts[0]
            self.fail(
                f"{option} is {value!r}; expected minutes above 0, such as {option}=5.", param, ctx
            )
        return minutes


MINUTES = _MinutesType()
WITHOUT_LIMIT = float("nan")
"""What `finetune_option` is without minutes."""


class _OptionalMinutesType(_MinutesType):
    """Minutes, or nothing."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        return WITHOUT_LIMIT if value is WITHOUT_LIMIT else super().convert(value, param, ctx)


PATH = _PathType()
FOLDER = _PathType("dir")
NAME = _NameType()
TEXT = _TextType()


def _chosen_index(ctx: click.Context, param: click.Parameter, given: tuple[Path, ...]) -> Path:
    """The index that the option, the variable or the working directory names."""
    if len(given) > 1:
        raise click.UsageError(
            f"--index is given {len(given)} times; expected one index; search several one after "
            "another.",
            ctx,
        )
    if given:
        return given[0]
    if "HYPERPQ_INDEX" in os.environ:
        chosen: Path = FOLDER.convert(os.environ["HYPERPQ_INDEX"], param, ctx)
        return chosen
    return Path(INDEX_NAME)


def _existing_index(ctx: click.Context, param: click.Parameter, given: tuple[Path, ...]) -> Path:
    """`_chosen_index`; without a choice, the one in the nearest folder above that has one."""
    chosen = _chosen_index(ctx, param, given)
    if given or "HYPERPQ_INDEX" in os.environ or any(map(os.path.lexists, _NAMES_OF_INDEX)):
        return chosen
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return chosen
    for folder in here.parents:
        if any((folder / name / "manifest.json").is_file() for name in _NAMES_OF_INDEX):
            return folder / INDEX_NAME
    return chosen


# `multiple`, so that a second one is noticed.
index_option = click.option(
    "--index",
    "index_path",
    type=FOLDER,
    multiple=True,
    callback=_existing_index,
    show_default=f"$HYPERPQ_INDEX, or {INDEX_NAME} in the working directory or a folder above",
    help="Directory of the index.",
)
new_index_option = click.option(
    "--index",
    "index_path",
    type=FOLDER,
    multiple=True,
    callback=_chosen_index,
    show_default=f"$HYPERPQ_INDEX or ./{INDEX_NAME}",
    help="Directory of the index.",
)
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
finetune_option = click.option(
    "--finetune",
    is_flag=False,
    flag_value=WITHOUT_LIMIT,
    type=_OptionalMinutesType(),
    metavar="[MINUTES]",
    help="Fine-tune the network on the training images first, which takes minutes on a GPU; "
    "MINUTES limits the time. On a CPU the command says beforehand how long it will take.",
)
workers_option = click.option(
    "--workers",
    type=_WorkersType(),
    metavar="N|KIND[:N]",
    default=0,
    show_default="one per core",
    help="Number of workers that decode images, or their kind: threads or processes, such as "
    "processes:8. By default processes read many files for a network on a GPU, and threads "
    "everything else.",
)
threads_option = click.option(
    "--threads",
    type=Whole(min=1),
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


relearn_option = click.option(
    "--relearn/--no-relearn",
    default=None,
    help="Learn the codec again from the kept features, or never do so. By default an update does "
    "if the index has grown by much, or has images of another kind.",
)


def relearning(relearn: bool | None) -> dict[str, Any]:
    """The argument of the library for `relearn_option`; none if it is not used."""
    return {} if relearn is None else {"relearn": "now" if relearn else "never"}


def training_options(command: F) -> F:
    """Add the options of commands that train a codec; `given` leaves out those not used."""
    for option in (
        click.option(
            "--epochs",
            type=Whole(min=0),
            help="Number of training epochs. [default: that of the recipe]",
        ),
        click.option("--seed", type=Whole(min=0), help="Seed of all random choices. [default: 0]"),
        click.option(
            "--metric",
            type=click.Choice(["l1", "geodesic", "chord", "cosine", "l2", "ip"]),
            help="How the distances of the subspaces are added up: l1, geodesic or chord. With "
            "--objective fidelity, whose exact neighbours are kept: those by cosine, l2 or ip "
            "(inner product). [default: l1, or cosine]",
        ),
        click.option(
            "--recipe",
            type=click.Choice(["default", "paper"]),
            help="Settings of the training. [default: default]",
        ),
        click.option(
            "--objective",
            type=click.Choice(["semantic", "fidelity", "balanced"]),
            help="What codes preserve: which items belong together (semantic), the exact "
            "neighbours (fidelity), or half of the code for each (balanced). "
            "[default: semantic]",
        ),
        click.option(
            "--bits",
            type=int,
            help="Length of a code in bits, a multiple of 8 from 8 to 512. [default: 64]",
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
