"""libtiff writes what it thinks of a file to stderr, without its name; here it is quiet.

What matters of it is the reason that `decode.open_image` gives for a file that it cannot decode.
"""

from __future__ import annotations

import contextlib
import ctypes


def silence_libtiff() -> None:
    """Take the handlers of messages from the libtiff that Pillow uses, in the whole process.

    Pillow has no call for that. Where its libtiff cannot be reached, nothing changes.
    """
    from PIL import _imaging

    with contextlib.suppress(OSError, AttributeError):
        # Names are looked up in the libraries that the module was linked with, too.
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
            take = getattr(library, name)
            take.argtypes, take.restype = [ctypes.c_void_p], ctypes.c_void_p
            take(None)
