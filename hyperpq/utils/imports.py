"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from hyperpq.errors import MissingDependencyError

# Variables that turn the telemetry of a package off when they are set before its import. ONNX
# Runtime 1.27 and newer looks up a host and writes to ~/.cache/Microsoft otherwise, also after its
# call `disable_telemetry_events`. timm and OpenCLIP download weights from the hub of Hugging Face.
_NO_TELEMETRY = {
    "onnxruntime": "ORT_DISABLE_TELEMETRY",
    "timm": "HF_HUB_DISABLE_TELEMETRY",
    "open_clip": "HF_HUB_DISABLE_TELEMETRY",
}


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


def _import(module: str) -> ModuleType:
    if variable := _NO_TELEMETRY.get(module.partition(".")[0]):
        os.environ.setdefault(variable, "1")
    return importlib.import_module(module)
