"""`WorkFile`: what was found out of images and pairs, so that it is found out only once.

It lies beside the index, as `hyperpq-index.duplicates`. A run that was interrupted goes on where it
was, and a run with another rule for what to keep takes seconds. An entry is known by path, size and
time of a file, so that a changed file is read again. The file may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpq.duplicates.compare import Comparison
from hyperpq.errors import IndexLockedError, StoreError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

# Counts up when anything changes that entries depend on; those of another version are dropped.
_VERSION = 3
# Keys of one statement.
_KEYS = 500
# Seconds that another process may take to finish.
_PATIENCE = 1.0


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image file.

    Attributes
    ----------
    size, mtime_ns : int
        Bytes, and time of the last change, when it was read.
    hash, mirrored_hash : bytes
        Perceptual hashes of the image and of its mirror image.
    content : int
        `content_hash` of the file.
    width, height : int
        Pixels of the upright image.
    taken : str or None
        See `time_taken`.
    sharpness : float
        See `evidence.sharpness`.
    error : str or None
        Why it cannot be read; the other values then are empty.
    """

    size: int
    mtime_ns: int
    hash: bytes = b""
    mirrored_hash: bytes = b""
    content: int = 0
    width: int = 0
    height: int = 0
    taken: str | None = None
    sharpness: float = 0.0
    error: str | None = None


def image_key(path: bytes, size: int, mtime_ns: int) -> bytes:
    """The key of a file in this state."""
    return hashlib.blake2b(b"%d/%d/" % (size, mtime_ns) + path, digest_size=16).digest()


def pair_key(a: bytes, b: bytes) -> bytes:
    """The key of two images, given theirs, in the order in which they are compared."""
    return hashlib.blake2b(a + b, digest_size=16).digest()


class WorkFile:
    """An SQLite file with entries by keys.

    Parameters
    ----------
    path : Path or None
        The file, which is made if it does not exist; None keeps entries in memory.

    Raises
    ------
    IndexLockedError
        If another process uses it.
    StoreError
        If it cannot be read or written, or is something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        with self._errors():
            self._base = sqlite3.connect(
                ":memory:" if path is None else path, timeout=_PATIENCE, isolation_level=None
            )
            # One process at a time; the lock is held until the file is closed.
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("BEGIN EXCLUSIVE")
            if self._base.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                self._make()
            self._base.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._base.close()

    def images(self, keys: Sequence[bytes]) -> dict[bytes, ImageFacts]:
        """What is known of the images with some keys."""
        names = ", ".join(field.name for field in fields(ImageFacts))
        return {row[0]: ImageFacts(*row[1:]) for row in self._select("images", names, keys)}

    def add_images(self, facts: dict[bytes, ImageFacts]) -> None:
        """Keep facts of images by their keys."""
        self._insert("images", [(key, *astuple(fact)) for key, fact in facts.items()])

    def pairs(self, keys: Sequence[bytes]) -> dict[bytes, Comparison]:
        """What is known of the pairs with some keys."""
        names = ", ".join(field.name for field in fields(Comparison))
        return {
            key: Comparison(inliers, overlap, agreement, bool(mirrored), covered, bool(page))
            for key, inliers, overlap, agreement, mirrored, covered, page in self._select(
                "pairs", names, keys
            )
        }

    def add_pairs(self, found: dict[bytes, Comparison]) -> None:
        """Keep comparisons by the keys of their pairs."""
        self._insert("pairs", [(key, *astuple(one)) for key, one in found.items()])

    def calibration(self, key: bytes) -> dict[str, Any] | None:
        """A calibration that was made before; None if there is none."""
        rows = list(self._select("calibrations", "content", [key]))
        return json.loads(rows[0][1]) if rows else None

    def add_calibration(self, key: bytes, content: dict[str, Any]) -> None:
        """Keep a calibration."""
        self._insert("calibrations", [(key, json.dumps(content))])

    def _make(self) -> None:
        for name, kind in (
            ("images", ImageFacts),
            ("pairs", Comparison),
            ("calibrations", None),
        ):
            columns = ["content"] if kind is None else [field.name for field in fields(kind)]
            self._base.execute(f"DROP TABLE IF EXISTS {name}")
            self._base.execute(
                f"CREATE TABLE {name} (key BLOB PRIMARY KEY, {', '.join(columns)}) WITHOUT ROWID"
            )
        self._base.execute(f"PRAGMA user_version = {_VERSION}")

    def _select(self, table: str, columns: str, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), _KEYS):
            some = keys[start : start + _KEYS]
            marks = ", ".join("?" * len(some))
            query = f"SELECT key, {columns} FROM {table} WHERE key IN ({marks})"
            with self._errors():
                rows = self._base.execute(query, some).fetchall()
            yield from rows

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        marks = ", ".join("?" * len(rows[0]))
        with self._errors():
            self._base.execute("BEGIN")
            self._base.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)
            self._base.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise IndexLockedError(
                    f"{self.path} is used by another process; wait until it has ended."
                ) from error
            raise StoreError(
                f"{self.path} cannot be used ({error}); it holds only what can be found out again, "
                "so delete it, or name another file (--work)."
            ) from error
