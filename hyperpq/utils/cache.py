"""`cache_folder`: where files are kept that can be generated again."""

from __future__ import annotations

import os
from pathlib import Path


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
