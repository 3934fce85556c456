"""`RemoteRecord`: what an index directory knows about its copy at a URL."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hyperpq.errors import StoreError
from hyperpq.utils.files import read_regular

REPORT = "remote.json"
"""Name of the report in an index directory that holds the record."""
_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class RemoteRecord:
    """Which snapshot at a URL an index directory was made from or published as.

    Snapshots are named by `Manifest.fingerprint`, the hash of their content, so that numbers of
    snapshots and names of files may differ between the two places.

    Attributes
    ----------
    url : str
        Where the copy is.
    base : str
        The last snapshot that both places had.
    pushing : str
        The snapshot that was being published; it may be at the URL, if that was interrupted.
    pulling : str
        The snapshot that was being fetched; it may be in the directory, if that was interrupted.
    """

    url: str = ""
    base: str = ""
    pushing: str = ""
    pulling: str = ""

    @classmethod
    def read(cls, root: Path, url: str) -> RemoteRecord:
        """The record of a directory about a URL; an empty one if there is none, or of another URL.

        Without a record, what is at the URL counts as changed by someone else.
        """
        path = root / REPORT
        try:
            stored = json.loads(read_regular(path, limit=_MAX_BYTES))
        except (StoreError, ValueError, RecursionError):
            return cls(url)
        fields = asdict(cls())
        if not isinstance(stored, dict) or stored.keys() != fields.keys():
            return cls(url)
        if not all(isinstance(value, str) for value in stored.values()) or stored["url"] != url:
            return cls(url)
        return cls(**stored)

    def to_bytes(self) -> bytes:
        """The text of the report."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    def allows_push_over(self, fingerprint: str) -> bool:
        """Whether the directory has everything of a snapshot that is at the URL."""
        return fingerprint in (self.base, self.pushing)

    def allows_pull_over(self, fingerprint: str) -> bool:
        """Whether a snapshot of the directory is, or was, at the URL, and so is not lost."""
        return fingerprint in (self.base, self.pulling)
