"""Search by HTTP: a server for one index, and clients of it.

`hyperpq serve` runs the server; `create_app` is its application. `Client` and `AsyncClient` search
by it. The server needs the extra ``serve``, clients the extra ``client``.
"""

from __future__ import annotations

import lazy_loader

from hyperpq.errors import MissingDependencyError

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_OF_SERVERS = ("fastapi", "starlette", "pydantic", "prometheus_client", "python_multipart")


def __getattr__(name: str) -> object:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OF_SERVERS:
            raise
        raise MissingDependencyError(
            f"{__name__}.{name} needs {error.name} ({error}); install it with `pip install "
            "'hyperpq[serve]'`."
        ) from error
