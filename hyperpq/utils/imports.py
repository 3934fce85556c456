"""Packages that an extra brings: imported when they are needed, with the command if they aren't."""

from __future__ import annotations

import importlib
from types import ModuleType

from hyperpq.errors import MissingDependencyError


def need(module: str, extra: str, what: str) -> ModuleType:
    """The module of an optional package.

    Parameters
    ----------
    module : str
        Its name.
    extra : str
        The extra of hyperpq that brings it.
    what : str
        What needs it, to begin the message with; in the plural.

    Raises
    ------
    MissingDependencyError
        It can't be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} need {module.partition('.')[0]} ({error}); "
            f"install it with: pip install 'hyperpq[{extra}]'"
        ) from error
