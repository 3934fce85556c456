"""`is_url`: whether the place of an index is a URL."""

from __future__ import annotations

import re
from typing import TypeGuard

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(path: object) -> TypeGuard[str]:
    """Whether the place of an index is a URL, which is text, and not a path."""
    return isinstance(path, str) and _URL.match(path) is not None
