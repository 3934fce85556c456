"""What someone may have meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Share of characters that agree, in order: "cta" and "cat" have .67.
_CUTOFF = 0.65


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to ``word``, if one is near; upper and lower case count less.

    Parameters
    ----------
    word : str
        What was given.
    known : iterable of str
        The names that there are.
    """
    names = list(known)
    if near := difflib.get_close_matches(word, names, 1, _CUTOFF):
        return near[0]
    folded = {name.casefold(): name for name in reversed(names)}
    near = difflib.get_close_matches(word.casefold(), folded, 1, _CUTOFF)
    return folded[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest that is known, or a full stop."""
    near = closest(word, known)
    return f"; did you mean {near!r}?" if near else "."
