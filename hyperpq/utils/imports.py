"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from hyperpq.errors import MissingDependencyError


def need(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an optional package.

    Parameters
    ----------
    module : str
        Name of the module.
    extra : str
        The extra of hyperpq that installs the package.
    what : str
        What needs the package, in the plural, to begin an error with.

    Returns
    -------
    module

    Raises
    ------
    MissingDependencyError
        The module cannot be imported; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} need {module.partition('.')[0]} ({error}); "
            f"install it with `pip install 'hyperpq[{extra}]'`."
        ) from error
