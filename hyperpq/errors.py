"""Every error that hyperpq raises on purpose.

Each message is one sentence: what was given (with the argument or the file), what is expected, and
what to do. The command line prints it as one line.
"""

from __future__ import annotations

from typing import Any


class HyperPQError(Exception):
    """Base of all errors of hyperpq."""


class InvalidInputError(HyperPQError, ValueError):
    """An argument has the wrong shape, dtype, range or content. Nothing was changed."""


class UnknownIdError(InvalidInputError, KeyError):
    """The index has no vector with an id that was given. Nothing was changed."""

    # That of KeyError would put the message in quotes.
    __str__ = Exception.__str__


class NotTrainedError(HyperPQError, RuntimeError):
    """The codec or index must be trained first."""


class TrainingError(HyperPQError, RuntimeError):
    """Training diverged, collapsed, or cannot start from what it was given."""


class MissingDependencyError(HyperPQError, ImportError):
    """An optional package is needed; the message says how to install it."""


class BackboneError(HyperPQError):
    """An image encoder cannot be loaded or does not fit the index."""


class ImageError(HyperPQError):
    """A file cannot be used as an image; the message is the reason, without the path."""


class ImageUnavailableError(ImageError):
    """A file cannot be read now: no permission, an I/O error, no such file, no package for it."""


class DatasetError(HyperPQError):
    """A data set is not where it should be or does not have the layout that it should have."""


class ClusterError(HyperPQError):
    """A Ray cluster cannot be reached, is too small, or its processes end again and again."""


class ServerError(HyperPQError):
    """A server of hyperpq does not answer, is busy, or refuses what it is asked.

    Attributes
    ----------
    status : int or None
        Status of its answer; None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class StoreError(HyperPQError, OSError):
    """An index directory cannot be read or written.

    Attributes
    ----------
    errno : int or None
        The number of the system's error, such as `errno.ENOSPC`; None if the system did not refuse.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError alone would lose an errno that is not among the arguments.
        return type(self), self.args, {**self.__dict__, "errno": self.errno}


class IndexNotFoundError(StoreError, FileNotFoundError):
    """There is no index at the given path."""


class CorruptIndexError(StoreError):
    """A file of an index is missing, torn or altered; the message names it."""


class FormatVersionError(StoreError):
    """The index was written in a format that this version cannot read."""


class IndexLockedError(StoreError):
    """Another process is writing to the index."""


class SnapshotChangedError(StoreError):
    """Another writer has committed since the snapshot was read; refresh and try again."""
