"""`asked_range`: which bytes of a file a request asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.requests import Request

# One range; what has several is answered with the whole file, as the standard allows.
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


def asked_range(request: Request, size: int, version: str) -> range | None:
    """The bytes that a request asks for; None if these are all.

    Parameters
    ----------
    request : Request
        The request.
    size : int
        Number of bytes of the file.
    version : str
        Its entity tag, without quotation marks. A request for a part of another version gets all.

    Raises
    ------
    HTTPException
        With the status 416, if the file has no such bytes.
    """
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if request.method != "GET" or found is None or found[1] == found[2] == "":
        return None
    condition = request.headers.get("if-range")
    # A time is no sure sign that a file is the same.
    if condition is not None and condition.strip() != f'"{version}"':
        return None
    if found[1]:
        first, last = int(found[1]), min(int(found[2] or size), size - 1)
        if found[2] and int(found[2]) < first:
            return None  # no valid range, and ignored
    else:
        first, last = max(0, size - int(found[2])), size - 1
    if first > last:
        raise HTTPException(
            416,
            f"the file has {size} bytes, and none of those that Range names",
            {"content-range": f"bytes */{size}"},
        )
    return range(first, last + 1)
