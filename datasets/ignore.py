"""Patterns in the syntax of .gitignore, with the meaning that git gives them byte by byte.

`IgnorePatterns` are those of one file or option, `IgnoreRules` all that apply in a folder.

A pattern becomes a regular expression of bytes, since a file name on Linux is bytes. The rules are
those of ``dir.c`` and ``wildmatch.c`` of git; the tests compare both on generated trees. Among them
are rules that its documentation leaves out: a byte-order mark is ignored, only a line feed ends a
line, only spaces are removed at its end, a pattern that is not valid matches nothing, and the text
before the first wildcard is compared on its own (so ``/a**`` matches across slashes).
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from hyperpq.errors import DatasetError
from hyperpq.utils.json_text import encodable_text

logger = logging.getLogger(__name__)

IGNORE_FILE = b".hyperpqignore"
"""Name of the file of patterns that any folder may contain."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPECIAL = re.compile(rb"[*?[\\]")
_SLASH, _STAR, _BACKSLASH = b"/*\\"
_OPEN, _CLOSE, _COLON, _DASH = b"[]:-"
_PATH_MAX = 4096
"""Bytes of the longest path of Linux."""

_LOWER, _UPPER, _DIGIT = (frozenset(range(a, b + 1)) for a, b in (b"az", b"AZ", b"09"))
_PRINTED, _SPACE = frozenset(range(0x20, 0x7F)), frozenset(b" \t\n\r")
_CLASSES = {
    b"alnum": _LOWER | _UPPER | _DIGIT,
    b"alpha": _LOWER | _UPPER,
    b"blank": frozenset(b" \t"),
    b"cntrl": frozenset(range(0x20)) | {0x7F},
    b"digit": _DIGIT,
    b"graph": _PRINTED - {0x20},
    b"lower": _LOWER,
    b"print": _PRINTED,
    b"punct": _PRINTED - _LOWER - _UPPER - _DIGIT - {0x20},
    b"space": _SPACE,
    b"upper": _UPPER,
    b"xdigit": _DIGIT | frozenset(b"abcdefABCDEF"),
}


class _InvalidPatternError(Exception):
    """The pattern matches nothing."""


@dataclass(frozen=True)
class _Pattern:
    """A pattern.

    Attributes
    ----------
    negative : bool
        Whether it includes what an earlier pattern excluded.
    only_folders : bool
        Whether it had a slash at its end.
    by_name : bool
        Whether it is compared with the last component of a path instead of the whole path.
    regex : compiled regular expression
        What must match from the beginning.
    """

    negative: bool
    only_folders: bool
    by_name: bool
    regex: re.Pattern[bytes]


@dataclass(frozen=True)
class IgnorePatterns:
    """The patterns of one ignore file or of one option; the last one that matches decides.

    Attributes
    ----------
    patterns : tuple
        The compiled patterns.
    invalid : tuple of bytes
        Lines that match nothing, as a bracket is not closed, for instance.
    """

    patterns: tuple[_Pattern, ...]
    invalid: tuple[bytes, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes) -> IgnorePatterns:
        """Read the content of an ignore file."""
        lines = data.removeprefix(_BYTE_ORDER_MARK).split(b"\n")
        # A carriage return belongs to the end of a line, and one without an end is read as if
        # it had one.
        return cls.from_lines(line.removesuffix(b"\r") for line in lines)

    @classmethod
    def from_lines(cls, lines: Iterable[bytes]) -> IgnorePatterns:
        """Read patterns, one a line; an empty line and one that begins with ``#`` are none."""
        patterns, invalid = [], []
        for line in lines:
            line = line.partition(b"\0")[0]
            text = _without_trailing_spaces(line)
            if not text or text.startswith(b"#"):
                continue
            try:
                patterns.append(_compile(text))
            except _InvalidPatternError:
                invalid.append(line)
        return cls(tuple(patterns), tuple(invalid))

    def excludes(self, path: bytes, *, is_folder: bool) -> bool | None:
        """Whether a path is excluded.

        Parameters
        ----------
        path : bytes
            Relative to the folder of the ignore file.
        is_folder : bool
            Whether it is a folder.

        Returns
        -------
        bool or None
            None if no pattern matches.
        """
        name = path[path.rfind(b"/") + 1 :]
        for pattern in reversed(self.patterns):
            if (is_folder or not pattern.only_folders) and pattern.regex.match(
                name if pattern.by_name else path
            ):
                return not pattern.negative
        return None


@dataclass(frozen=True)
class IgnoreRules:
    """The patterns that apply in a folder.

    Attributes
    ----------
    levels : tuple of (bytes, IgnorePatterns)
        Patterns, each with the folder that they are relative to, with a slash at its end; the first
        that match a path decide.
    """

    levels: tuple[tuple[bytes, IgnorePatterns], ...]

    @classmethod
    def of_root(cls, root: bytes, exclude: IgnorePatterns) -> IgnoreRules:
        """The rules in a root, with the patterns of an option."""
        return cls(((os.path.join(root, b""), exclude),))

    def ignore(self, path: bytes, is_folder: bool) -> bool:
        """Whether ``path`` is excluded."""
        for base, patterns in self.levels:
            verdict = patterns.excludes(path[len(base) :], is_folder=is_folder)
            if verdict is not None:
                return verdict
        return False

    def within(self, folder: bytes) -> IgnoreRules:
        """The rules inside ``folder``, which has an ignore file.

        Raises
        ------
        DatasetError
            If the file cannot be read.
        """
        path = os.path.join(folder, IGNORE_FILE)
        data = _read(path)
        if data is None:
            return self
        patterns = IgnorePatterns.from_bytes(data)
        for line in patterns.invalid:
            logger.warning(
                "%s: the pattern %r matches nothing.", encodable_text(path), os.fsdecode(line)
            )
        # Those of the option keep precedence, as in git; then come those of the nearest folder.
        own = (os.path.join(folder, b""), patterns)
        return IgnoreRules((*self.levels[:1], own, *self.levels[1:]))


def _read(path: bytes) -> bytes | None:
    """Content of an ignore file; None if it is not a regular file, or was just removed."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            logger.warning(
                "%s is not a regular file, so it excludes nothing; expected a text file with one "
                "pattern per line.",
                os.fsdecode(path),
            )
            return None
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.islink(path):
            return None
        # To continue would list files that the user asked to exclude.
        raise DatasetError(
            f"{os.fsdecode(path)} cannot be read ({error.strerror}); make it readable or remove it."
        ) from error


def _without_trailing_spaces(line: bytes) -> bytes:
    """The line without spaces at its end, unless they are escaped."""
    end = len(line.rstrip(b" "))
    backslashes = end - len(line[:end].rstrip(b"\\"))
    # An odd number of backslashes escapes the first of the spaces.
    return line[: end + backslashes % 2]


@lru_cache(maxsize=4096)
def _compile(text: bytes) -> _Pattern:
    negative = text.startswith(b"!")
    text = text[negative:]
    only_folders = text.endswith(b"/")
    text = text.removesuffix(b"/")
    by_name = b"/" not in text
    if not by_name:
        text = text.removeprefix(b"/")
    if not text:
        raise _InvalidPatternError
    special = _SPECIAL.search(text)
    literal = text if special is None else text[: special.start()]
    body = _Translation(text[len(literal) :], by_name).regex()
    if len(literal) > _PATH_MAX:
        raise _InvalidPatternError
    regex = re.compile(re.escape(literal) + body + rb"\Z", re.DOTALL)
    return _Pattern(negative, only_folders, by_name, regex)


class _Translation:
    """From a pattern, without the text before its first wildcard, to a regular expression.

    A pattern is a list of parts that match some bytes each, between wildcards that match any
    number. For all but the last part the first place where it fits is the right one, so it is put
    into an atomic group: patterns such as ``*a*a*a*b`` take polynomial time.
    """

    def __init__(self, text: bytes, by_name: bool) -> None:
        self.text, self.by_name, self.at, self.length = text, by_name, 0, 0
        self.groups = 0

    def regex(self) -> bytes:
        """The regular expression.

        Raises
        ------
        _InvalidPatternError
            If nothing matches.
        """
        # Alternately a wildcard that crosses slashes, and parts between wildcards that do not.
        chunks: list[tuple[bytes, list[bytes]]] = [(b"", [b""])]
        while self.at < len(self.text):
            if self.text[self.at] != _STAR:
                chunks[-1][1][-1] += self._one()
                continue
            crossing = self._stars()
            if crossing is None:
                chunks[-1][1].append(b"")
            else:
                chunks.append((crossing, [b""]))
        last = len(chunks) - 1
        # Built from the inside: each chunk is followed by all later ones only if it is the last.
        out = b""
        for i, (crossing, parts) in enumerate(chunks):
            chunk = crossing + self._chunk(parts, is_last=i == last)
            out += chunk if i == last or not crossing else self._atomic(chunk)
        return out

    def _chunk(self, parts: list[bytes], is_last: bool) -> bytes:
        """Parts between which anything but a slash may be."""
        out, final = parts[0], len(parts) - 1
        for i, part in enumerate(parts[1:], 1):
            if i == final and is_last:
                out += rb"[^/]*" + part
            else:
                out += self._atomic(rb"[^/]*?" + part)
        return out

    def _atomic(self, inner: bytes) -> bytes:
        """A group that is not tried again at another place; Python 3.10 has no ``(?>``."""
        self.groups += 1
        return b"(?=(?P<g%d>%s))(?P=g%d)" % (self.groups, inner, self.groups)

    def _stars(self) -> bytes | None:
        """Read asterisks: the expression of those that cross slashes, None for others."""
        text, start = self.text, self.at
        while self.at < len(text) and text[self.at] == _STAR:
            self.at += 1
        rest = text[self.at : self.at + 2]
        alone = not start or text[start - 1] == _SLASH
        if (
            self.by_name
            or self.at - start < 2
            or not alone
            or not (not rest or rest[0] == _SLASH or rest == b"\\/")
        ):
            return None
        if rest[:1] == b"/":
            self.at += 1
            return b"(?:|.*?/)"
        return b".*?"

    def _one(self) -> bytes:
        """Read what matches one byte."""
        self.length += 1
        if self.length > _PATH_MAX:
            raise _InvalidPatternError
        byte = self._next()
        if byte == ord("?"):
            return rb"[^/]"
        if byte == _OPEN:
            return self._bracket()
        if byte == _BACKSLASH:
            byte = self._next()
        return re.escape(bytes([byte]))

    def _next(self) -> int:
        if self.at >= len(self.text):
            raise _InvalidPatternError
        self.at += 1
        return self.text[self.at - 1]

    def _bracket(self) -> bytes:
        """Read a set of bytes after its opening bracket."""
        found: set[int] = set()
        byte = self._next()
        negated = byte in b"!^"
        if negated:
            byte = self._next()
        previous: int | None = None
        while True:
            ahead = self.text[self.at : self.at + 1]
            if byte == _BACKSLASH:
                previous = self._next()
                found.add(previous)
            elif byte == _DASH and previous is not None and ahead not in (b"", b"]"):
                end = self._next()
                if end == _BACKSLASH:
                    end = self._next()
                found.update(range(previous, end + 1))
                previous = None
            elif byte == _OPEN and ahead == b":":
                previous = self._class(found)
            else:
                found.add(byte)
                previous = byte
            byte = self._next()
            if byte == _CLOSE:
                break
        matched = set(range(256)) - found if negated else found
        matched.discard(_SLASH)
        if not matched:
            raise _InvalidPatternError
        return b"[" + b"".join(b"\\x%02x" % value for value in sorted(matched)) + b"]"

    def _class(self, found: set[int]) -> int | None:
        """Read ``[:name:]`` after its opening bracket; a bracket alone stands for itself."""
        end = self.text.find(b"]", self.at + 1)
        if end < 0:
            raise _InvalidPatternError
        name = self.text[self.at + 1 : end]
        if not name.endswith(b":"):
            found.add(_OPEN)
            return _OPEN
        if name[:-1] not in _CLASSES:
            raise _InvalidPatternError
        found |= _CLASSES[name[:-1]]
        self.at = end + 1
        return None
