"""Every error that hyperpq raises on purpose.

Each message is one sentence that names the file or the argument, what was found, what was expected
and what to do. The command line prints it as one line and exits with ``exit_code``.
"""

from __future__ import annotations


class HyperPQError(Exception):
    """Base of all errors of hyperpq; ``exit_code`` is what the command line exits with."""

    exit_code = 1


class InvalidInputError(HyperPQError, ValueError):
    """An argument has the wrong shape, dtype, range or content. Nothing was changed."""

    exit_code = 2


class NotTrainedError(HyperPQError, RuntimeError):
    """The codec or index must be trained first."""


class TrainingError(HyperPQError, RuntimeError):
    """Training diverged, collapsed, or can't start from what it was given."""


class MissingDependencyError(HyperPQError, ImportError):
    """An optional package is needed; the message says how to install it."""


class BackboneError(HyperPQError):
    """An image encoder can't be loaded or doesn't fit the index."""


class ImageError(HyperPQError):
    """A file can't be used as an image; the message is the reason, without the path."""


class DatasetError(HyperPQError):
    """A data set isn't where it should be or hasn't the layout it should have."""


class StoreError(HyperPQError):
    """An index directory can't be read or written."""


class IndexNotFoundError(StoreError):
    """There is no index at the given path."""


class CorruptIndexError(StoreError):
    """A file of an index is missing, torn or altered; the message names it."""


class FormatVersionError(StoreError):
    """The index was written in a format that this version can't read."""


class IndexLockedError(StoreError):
    """Another process is writing to the index."""
