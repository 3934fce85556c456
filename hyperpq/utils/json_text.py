"""Names of files in JSON and in logs, which are Unicode; a name on disk may not be."""

from __future__ import annotations

import base64
import os
from typing import Any


def path_text(path: bytes) -> str:
    """A path as text from which the bytes can be restored, as `os.fsdecode` does with UTF-8."""
    return path.decode("utf-8", "surrogateescape")


def encodable_text(path: bytes | str | os.PathLike[str]) -> str:
    r"""A path for a log, whose handler may write UTF-8: other bytes become ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def for_json(value: Any) -> Any:
    """A value whose JSON is valid Unicode.

    A text that stands for bytes that are not UTF-8 gets a replacement character for each part that
    is not, and in an object a second field, ``NAME_bytes``, with the bytes in Base64.
    """
    if isinstance(value, list):
        return [for_json(item) for item in value]
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for key, item in value.items():
            out[key] = for_json(item)
            data = item.encode("utf-8", "surrogateescape") if isinstance(item, str) else b""
            if data.decode("utf-8", "ignore").encode() != data:
                out[f"{key}_bytes"] = base64.b64encode(data).decode()
        return out
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return value
