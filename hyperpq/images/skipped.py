"""`skipped.csv`: the files that a build skipped, each with the reason."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

NAME = "skipped.csv"


def to_csv(skipped: Mapping[bytes, str]) -> bytes:
    """Paths and reasons as CSV with the header ``path,reason``, sorted by path.

    Paths keep their bytes in any encoding.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    for path in sorted(skipped):
        writer.writerow([path.decode("utf-8", "surrogateescape"), skipped[path]])
    return text.getvalue().encode("utf-8", "surrogateescape")


def from_csv(data: bytes | None) -> dict[bytes, str]:
    """Inverse of `to_csv`; None and an empty file give an empty dict."""
    if not data:
        return {}
    rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape")))
    next(rows, None)
    return {r[0].encode("utf-8", "surrogateescape"): r[1] for r in rows if len(r) == 2}
