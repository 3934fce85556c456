"""Sessions of ONNX Runtime: how they are opened, and what becomes of them in a forked child."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hyperpq.backbones.base import first_line
from hyperpq.errors import BackboneError, MissingDependencyError
from hyperpq.utils.devices import default_threads
from hyperpq.utils.forks import ForkSafeLock
from hyperpq.utils.imports import import_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_session(
    model: bytes | str, device: str, threads: int | None, name: str
) -> InferenceSession:
    """Load a model, given as its bytes or its path, into ONNX Runtime.

    Raises
    ------
    MissingDependencyError
        If ``device`` is a GPU and the installed ONNX Runtime has no support for it.
    BackboneError
        If the model cannot be loaded.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Spinning threads take cores from the decoding threads: with two of these, a build was 5 to
    # 20 % faster without spinning, and the network alone was not slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if not onnx_on_gpu():
            raise MissingDependencyError(
                f"device is {device!r}; backbone {name!r} needs ONNX Runtime with CUDA there; use "
                "device 'cpu', or install it with: pip uninstall onnxruntime && pip install "
                "onnxruntime-gpu."
            )
        number = int(device.partition(":")[2] or 0)
        cuda = {"device_id": number, "use_tf32": "0"}
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common public base
        raise BackboneError(
            f"backbone {name!r} cannot be loaded by ONNX Runtime ({first_line(error)}); "
            "give a valid ONNX file."
        ) from error


def onnx_on_gpu() -> bool:
    """Whether this ONNX Runtime can use a GPU."""
    return "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()


class ForkSafeSession:
    """A session that a forked child opens again when it first needs it.

    The threads of a session do not survive a fork. One of the parent ran on a single thread in the
    child, and closing it at the end of the child hung or crashed.

    Parameters
    ----------
    session : InferenceSession
        An open session.
    open_again : callable
        Opens it once more.
    """

    def __init__(
        self, session: InferenceSession, open_again: Callable[[], InferenceSession]
    ) -> None:
        self._session: InferenceSession | None = session
        self._open_again = open_again
        self._opening = ForkSafeLock()
        _SESSIONS.add(self)

    @property
    def here(self) -> InferenceSession:
        """The session of this process."""
        if self._session is None:
            with self._opening:
                if self._session is None:
                    self._session = self._open_again()
        return self._session

    def _abandon(self) -> None:
        """Forget the session of the parent, which is never closed here."""
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None


_SESSIONS: weakref.WeakSet[ForkSafeSession] = weakref.WeakSet()


def _abandon_all() -> None:
    for session in list(_SESSIONS):
        session._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
