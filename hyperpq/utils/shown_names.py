r"""Names of files as text for people: on a terminal and on a page.

A name on disk is any bytes without NUL and ``/``: it can hold control characters, which move the
cursor or colour a terminal, line breaks, marks that reverse the direction of text, and bytes that
are not UTF-8. What people read has none of these.
"""

from __future__ import annotations

import contextlib
import shlex
import unicodedata

from hyperpq.utils.json_text import path_text

# Control characters, halves of pairs (bytes that are not UTF-8), separators of lines and
# paragraphs, and marks of format, such as those that reverse the direction of writing.
_UNSAFE = {"Cc", "Cs", "Zl", "Zp", "Cf"}
# Marks of format that names in Persian, Indic scripts and emoji need: non-joiner and joiner.
_JOINERS = "\u200c\u200d"
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def quoted(path: bytes) -> str:
    r"""A path on one line, for people.

    A path without special characters is as it is. Another is a word of bash and zsh that stands for
    it: ``$'a\nb\x1b[31m'``.
    """
    text = path_text(path)
    if _is_safe(text) and not text.startswith("$'"):
        return text
    return "$'" + escaped(text.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def word(path: bytes) -> str:
    """A path or an argument as it is typed in bash and zsh, on one line."""
    text = quoted(path)
    return text if text.startswith("$'") else shlex.quote(text)


def escaped(text: str) -> str:
    r"""Text on one line in which special characters are escapes, such as ``\x1b``."""
    # Half of a pair that stands for no byte cannot be encoded, and is escaped below.
    with contextlib.suppress(UnicodeEncodeError):
        # In the locale C, arguments and paths are decoded as ASCII.
        text = path_text(text.encode("utf-8", "surrogateescape"))
    if _is_safe(text):
        return text
    return "".join(c if _is_safe(c) else _escape(c) for c in text)


def _is_safe(text: str) -> bool:
    return text.isprintable() or all(
        unicodedata.category(c) not in _UNSAFE or c in _JOINERS for c in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
