"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from types import ModuleType

import lazy_loader

from hyperpq.errors import MissingDependencyError

# Variables that turn the telemetry of a package off when they are set before its import. ONNX
# Runtime 1.27 and newer looks up a host and writes to ~/.cache/Microsoft otherwise, also after its
# call `disable_telemetry_events`. timm and OpenCLIP download weights from the hub of Hugging Face.
# Ray sends statistics of a cluster that it starts.
_NO_TELEMETRY = {
    "onnxruntime": ("ORT_DISABLE_TELEMETRY", "1"),
    "timm": ("HF_HUB_DISABLE_TELEMETRY", "1"),
    "open_clip": ("HF_HUB_DISABLE_TELEMETRY", "1"),
    "ray": ("RAY_USAGE_STATS_ENABLED", "0"),
}


# What is installed for learning alone.
_FOR_LEARNING = ("torch", "geoopt", "scipy", "efficientnet_lite_pytorch")


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, without its telemetry unless the user has set the variable for it.

    Every import of ONNX Runtime is this one, as nothing turns its telemetry off later.
    """
    return _import("onnxruntime")


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
        return _import(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} need {module.partition('.')[0]} ({error}); "
            f"install it with `pip install 'hyperpq[{extra}]'`."
        ) from error


def need_torch(what: str) -> None:
    """Raise `MissingDependencyError` unless PyTorch is installed; it is not imported here.

    What learns and what runs on a GPU calls this first. Modules that import PyTorch with themselves
    are only imported afterwards.

    Parameters
    ----------
    what : str
        What needs it, in the plural, to begin the error with.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            f"{what} need PyTorch, which is not installed; install it with "
            "`pip install 'hyperpq[train]'`."
        )


def attach_stub(
    package: str, file: str
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names are imported when used.

    The names are those of its ``__init__.pyi``. One that needs a package which is installed for
    learning alone raises a `MissingDependencyError` without it.
    """
    load, names, public = lazy_loader.attach_stub(package, file)

    def load_or_say(name: str) -> object:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _FOR_LEARNING:
                raise
            raise MissingDependencyError(
                f"{name} needs {error.name} ({error}); install it with "
                "`pip install 'hyperpq[train]'`."
            ) from error

    return load_or_say, names, public


def _import(module: str) -> ModuleType:
    if variable := _NO_TELEMETRY.get(module.partition(".")[0]):
        os.environ.setdefault(*variable)
    return importlib.import_module(module)
