"""Conditions of --where as they are typed in a shell, and what to say if nothing fulfils one."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from pathlib import Path

import click

# Words that are no file, but the middle of a condition that was typed without quotes.
_OPERATORS = ("==", "!=", "<=", ">=", "<", ">", "=")


def check_quoted(where: str | None, words: Sequence[str | Path]) -> None:
    """Refuse a condition that a shell has taken apart at its spaces.

    Parameters
    ----------
    where : str, optional
        The condition.
    words : sequence of str
        The other arguments of the command.

    Raises
    ------
    click.UsageError
        If the condition is the name of a column, or an operator is among the words.
    """
    if where is None:
        return
    texts = list(map(str, words))
    place = next((i for i, text in enumerate(texts) if text in _OPERATORS), None)
    is_name = where.isidentifier() and not keyword.iskeyword(where)
    if place is None and not is_name:
        return
    example = "folder == 'cats'"
    if place is not None and is_name and place + 1 < len(texts):
        value = texts[place + 1]
        operator = "==" if texts[place] == "=" else texts[place]
        example = f"{where} {operator} {value if _is_number(value) else repr(value)}"
    raise click.UsageError(
        f"--where is {where!r}, which is no condition; a shell separates words at spaces, so write "
        f'the whole condition in quotes, as in --where "{example}".'
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def unfulfilled(noun: str, where: str) -> str:
    """That nothing fulfils a condition, with the reason if that is a path which is not absolute."""
    from hyperpq.filters.hints import relative_paths
    from hyperpq.filters.where import Where

    said = f"no {noun} fulfils the condition {where}"
    relative = relative_paths(Where(where).root)
    return f"{said}; paths of files are absolute, and {relative[0]!r} is not." if relative else said
