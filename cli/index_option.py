"""Types of paths, and the option ``--index`` in its three forms."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

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
        return completed_paths(incomplete, self._completed_as)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty; expected a path.", param, ctx)
        return super().convert(value, param, ctx)


class _UrlOrPathType(_PathType):
    """A path, or a URL, which stays text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from hyperpq.utils.locations import is_url

        return value if is_url(value) else super().convert(value, param, ctx)


def completed_paths(incomplete: str, kind: str) -> list[CompletionItem]:
    """The answer that makes a shell complete names of files (``file``) or folders (``dir``)."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]


PATH = _PathType()
FOLDER = _PathType("dir")
INDEX = _UrlOrPathType("dir")
SOURCE = _UrlOrPathType()  # folders, and tar files


def _chosen_index(
    ctx: click.Context, param: click.Parameter, given: tuple[Path | str, ...]
) -> Path | str:
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
        chosen: Path | str = INDEX.convert(os.environ["HYPERPQ_INDEX"], param, ctx)
        return chosen
    return Path(INDEX_NAME)


def _new_index(ctx: click.Context, param: click.Parameter, given: tuple[Path | str, ...]) -> Path:
    """`_chosen_index`, which must be a directory."""
    chosen = _chosen_index(ctx, param, given)
    if isinstance(chosen, str):
        raise click.UsageError(
            f"--index is {chosen}; expected a directory, as an index is written there; push it to "
            "the URL with `hyperpq push`.",
            ctx,
        )
    return chosen


def _changed_index(
    ctx: click.Context, param: click.Parameter, given: tuple[Path | str, ...]
) -> Path:
    """`_new_index`; without a choice, the one in the nearest folder above that has one."""
    chosen = _new_index(ctx, param, given)
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


def _read_index(
    ctx: click.Context, param: click.Parameter, given: tuple[Path | str, ...]
) -> Path | str:
    """`_changed_index`, or a URL."""
    chosen = _chosen_index(ctx, param, given)
    return chosen if isinstance(chosen, str) else _changed_index(ctx, param, given)


_DEFAULT_INDEX = f"$HYPERPQ_INDEX, or {INDEX_NAME} in the working directory or a folder above"
# `multiple`, so that a second one is noticed.
_read_index_option = click.option(
    "--index",
    "index_path",
    type=INDEX,
    multiple=True,
    callback=_read_index,
    show_default=_DEFAULT_INDEX,
    help="Directory of the index, or the URL that it was pushed to, such as s3://bucket/index.",
)


def index_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--index`` to a command that reads an index; of one at a URL the command gets a copy."""
    return _with_copy(command, verify=False)


def verified_index_option(command: Callable[..., None]) -> Callable[..., None]:
    """`index_option`; damaged files of the copy are copied again."""
    return _with_copy(command, verify=True)


def _with_copy(command: Callable[..., None], *, verify: bool) -> Callable[..., None]:
    @functools.wraps(command)
    def with_copy(*, index_path: Path | str, **given: Any) -> None:
        if isinstance(index_path, str):
            from hyperpq.cli import output
            from hyperpq.remote import local_copy

            with output.progress(quiet=bool(given.get("quiet"))) as progress:
                index_path = local_copy(index_path, verify=verify, progress=progress)
        command(index_path=index_path, **given)

    return _read_index_option(with_copy)


changed_index_option = click.option(
    "--index",
    "index_path",
    type=INDEX,
    multiple=True,
    callback=_changed_index,
    show_default=_DEFAULT_INDEX,
    help="Directory of the index.",
)
new_index_option = click.option(
    "--index",
    "index_path",
    type=INDEX,
    multiple=True,
    callback=_new_index,
    show_default=f"$HYPERPQ_INDEX or ./{INDEX_NAME}",
    help="Directory of the index.",
)
