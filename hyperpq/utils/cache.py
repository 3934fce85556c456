"""`cache_folder`: where files are kept that can be generated again, and how they are kept."""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import xxhash

from hyperpq.utils.json_text import encodable_text

_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """The folder of hyperpq below the user's caches, which may not exist yet.

    Returns
    -------
    Path or None
        ``$HYPERPQ_CACHE``; otherwise ``hyperpq`` in ``$XDG_CACHE_HOME`` or in ``.cache`` of the
        home directory, which is ``$HOME`` or, where that is not set, that of the user database. It
        is None if the user has no home directory that exists, as in many containers: then nothing
        is cached, rather than a folder named ``~`` or a home directory made.

    Notes
    -----
    Relative values of ``XDG_CACHE_HOME`` and ``HOME`` are ignored, as the XDG Base Directory
    Specification demands.
    """
    if own := os.environ.get("HYPERPQ_CACHE"):
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(caches):
        return Path(caches, "hyperpq")
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        home = _recorded_home()
    if not os.path.isabs(home) or not os.path.isdir(home):
        return None
    return Path(home, ".cache", "hyperpq")


def _recorded_home() -> str:
    """The home directory in the user database, or an empty string."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    # A container may run as a user that the database does not have.
    except (ImportError, KeyError):
        return ""


def read_cached(name: str) -> bytes | None:
    """The content that `write_cached` kept under a name; None if it is absent or damaged."""
    folder = cache_folder()
    if folder is None:
        _log.info("there is no home directory; set HYPERPQ_CACHE to a folder for cached files")
        return None
    path = folder / f"{name}.xxh3"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.info(
            "%s cannot be read (%s); its content is made again",
            encodable_text(path),
            error.strerror,
        )
        return None
    # The file begins with the 16 bytes of its hash.
    if data[:16] == xxhash.xxh3_128_digest(data[16:]):
        return data[16:]
    _log.warning("%s is damaged; its content is made again", encodable_text(path))
    return None


def write_cached(name: str, content: bytes) -> None:
    """Keep content under a name, if that is possible: a temporary file is written and renamed."""
    folder = cache_folder()
    if folder is None:
        return
    path = folder / f"{name}.xxh3"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(xxhash.xxh3_128_digest(content) + content)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        # What is not kept is made again at each start.
        _log.info(
            "%s cannot be written (%s); nothing is cached", encodable_text(path), error.strerror
        )
