"""Metadata of an index: JSON values that are read-only, so that no change is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from hyperpq.errors import InvalidInputError


def as_metadata(value: Any) -> dict[str, Any]:
    """Return a copy of ``value`` as it is stored, and read again, as JSON.

    Parameters
    ----------
    value : mapping
        What JSON can hold: strings, finite numbers, booleans, None, lists and mappings.

    Raises
    ------
    InvalidInputError
        If it is not a mapping, or JSON cannot hold it.
    """
    if not isinstance(value, Mapping):
        raise InvalidInputError(
            f"metadata is of {type(value)}; expected a mapping, such as a dict."
        )
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"metadata cannot be stored as JSON ({error}); expected strings, finite numbers, "
            "booleans, None, lists and dicts."
        ) from error
    return copied


def read_only(value: Any) -> Any:
    """A JSON value whose dicts and lists refuse to be changed, at every depth."""
    if isinstance(value, dict):
        return ReadOnlyDict({name: read_only(item) for name, item in value.items()})
    if isinstance(value, list):
        return ReadOnlyList(map(read_only, value))
    return value


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise InvalidInputError(
        "metadata is read-only in place; expected an assignment of all of it, such as "
        "index.metadata = {**index.metadata, 'name': value}."
    )


class ReadOnlyDict(dict[str, Any]):
    """A dict that cannot be changed; a copy of it is an ordinary dict."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class ReadOnlyList(list[Any]):
    """A list that cannot be changed; a copy of it is an ordinary list."""

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = _refuse
    reverse = sort = _refuse
