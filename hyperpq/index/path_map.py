"""`PathMap`: the paths of images that were moved together with their folder or with the index.

Rows are never rewritten because a folder has moved. An index of images records its folders in its
metadata, each with the path that its rows begin with and with the place where it is now, and all
paths are shown through this map.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperpq.errors import CorruptIndexError
from hyperpq.store import IndexStore, Store
from hyperpq.store.paths import Paths
from hyperpq.store.strings import Strings
from hyperpq.utils.locations import is_absolute, is_remote

KEY, ROOTS_KEY = "pictures", "roots"
"""Where the metadata of an index of images has its folders; part of the format."""
_LITERAL = b":"


@dataclass(frozen=True)
class Root:
    """A folder of images that an index has been brought in line with, or a single image.

    Attributes
    ----------
    path : bytes
        Absolute path, or URL, when it was last listed.
    stored : bytes
        What the stored paths of its images begin with: its path when they were first added.
    relative : bytes, optional
        ``path`` relative to the directory of the index; None for a URL.
    exclude : tuple of str
        Patterns of what is left out, see `datasets.folder.scan_roots`.
    include_hidden : bool
        Whether hidden files are listed.
    mount : bytes, optional
        Mount point of the file system that ``path`` was on when images were last listed there.
        Indexes of earlier versions do not say.
    """

    path: bytes
    stored: bytes
    relative: bytes | None = None
    exclude: tuple[str, ...] = ()
    include_hidden: bool = False
    mount: bytes | None = None

    def present(self, directory: Path | None) -> bytes:
        """Where the folder is, if the index is in ``directory``.

        That is the recorded place, or the place relative to the index if only that exists: the
        index has been moved together with its images.
        """
        if directory is None or self.relative is None:
            return self.path
        place = os.path.realpath(os.fsencode(directory))
        beside = os.path.normpath(os.path.join(place, self.relative))
        # Nothing is looked up while the index is where it was.
        if beside == self.path or os.path.lexists(self.path) or not os.path.lexists(beside):
            return self.path
        return beside

    def to_stored(self) -> dict[str, Any]:
        """The root as JSON values."""
        stored = {
            "path": _text(self.path),
            "stored": _text(self.stored),
            "relative": None if self.relative is None else _text(self.relative),
            "exclude": list(self.exclude),
            "include_hidden": self.include_hidden,
        }
        return stored if self.mount is None else {**stored, "mount": _text(self.mount)}


def relative_to(path: bytes, directory: Path) -> bytes | None:
    """A path relative to the directory of an index, by whatever link that is reached.

    None for a URL, which does not move with an index.
    """
    if is_remote(path):
        return None
    return os.path.relpath(path, os.path.realpath(os.fsencode(directory)))


def parse_roots(metadata: Mapping[str, Any]) -> tuple[Root, ...]:
    """The folders that the metadata of an index records; none for an index of vectors.

    Raises
    ------
    CorruptIndexError
        If what it records is not valid.
    """
    images = metadata.get(KEY)
    stored = images.get(ROOTS_KEY, []) if isinstance(images, Mapping) else []
    try:
        return tuple(map(_parse_root, stored))
    except (AttributeError, KeyError, TypeError, UnicodeError, ValueError):
        raise CorruptIndexError(
            "the roots in the metadata of the index are not valid; expected path, stored, "
            "relative, exclude and include_hidden of each, as hyperpq build writes them."
        ) from None


def with_roots(metadata: Mapping[str, Any], roots: Iterable[Root]) -> dict[str, Any]:
    """The metadata of an index of images with other folders."""
    images = {**metadata.get(KEY, {}), ROOTS_KEY: [root.to_stored() for root in roots]}
    return {**metadata, KEY: images}


def settled(
    metadata: Mapping[str, Any], directory: Path | None, target: Path | None
) -> Mapping[str, Any]:
    """Metadata for a copy in ``target`` of an index in ``directory``, with paths as they are shown.

    Both are None in memory.
    """
    roots = () if directory is None else parse_roots(metadata)
    if not roots:
        return metadata
    places = [root.present(directory) for root in roots]
    return with_roots(
        metadata,
        [
            replace(
                root,
                path=place,
                stored=place,
                relative=None if target is None else relative_to(place, target),
                mount=root.mount if place == root.path else None,
            )
            for root, place in zip(roots, places, strict=True)
        ],
    )


@dataclass(frozen=True)
class PathMap:
    """Stored paths and the paths that are shown for them.

    Attributes
    ----------
    pairs : tuple of (bytes, bytes)
        For each folder what the stored paths of its images begin with, and its present path. The
        longest that fits counts. None, if all folders are where they were first.
    has_colons : bool
        Whether colons before the ``/`` of a stored path that no folder has are not shown, as in an
        index of images: they keep it from being taken for that of another image. They stay when
        the folder that they were needed for is forgotten.
    """

    pairs: tuple[tuple[bytes, bytes], ...] = ()
    has_colons: bool = False

    @classmethod
    def of(cls, store: Store) -> PathMap:
        """The map of the rows of a store; in memory paths are what they are.

        Raises
        ------
        CorruptIndexError
            If the folders that the index records are not valid.
        """
        if not isinstance(store, IndexStore):
            return cls()
        metadata = store.settings.get("metadata", {})
        if KEY not in metadata:
            return cls()
        return cls.from_roots(parse_roots(metadata), store.path)

    @classmethod
    def from_roots(cls, roots: Iterable[Root], directory: Path | None) -> PathMap:
        """The map of an index of images in ``directory`` that records these folders."""
        pairs = [(root.stored, root.present(directory)) for root in roots]
        if all(stored == present for stored, present in pairs):
            pairs = []
        return cls(tuple(sorted(pairs, key=lambda pair: (-len(pair[0]), pair[0]))), True)

    @property
    def is_identity(self) -> bool:
        """Whether all paths are shown as they are stored."""
        return not self.has_colons

    def shown(self, path: bytes) -> bytes:
        """The path that is shown for a stored one."""
        for stored, present in self.pairs:
            if is_at_or_below(path, stored):
                return _joined(present, path[len(stored) :])
        literal = path.lstrip(_LITERAL)
        return literal if self.has_colons and is_absolute(literal) else path

    def stored(self, path: bytes) -> bytes:
        """The stored path for which ``path`` is shown."""
        if not self.pairs or not is_absolute(path):
            return path
        for stored, present in sorted(self.pairs, key=lambda pair: -len(pair[1])):
            if is_at_or_below(path, present):
                candidate = _joined(stored, path[len(present) :])
                if self.shown(candidate) == path:
                    return candidate
        while self.shown(path) != path.lstrip(_LITERAL):
            path = _LITERAL + path
        return path

    def shown_strings(self, strings: Strings) -> Strings:
        """A column of stored paths as they are shown; the same object where nothing differs."""
        if self.is_identity:
            return strings
        rows = Paths(strings.offsets, strings.blob)
        touched = rows.startswith(_LITERAL)
        for stored, present in self.pairs:
            if stored != present:
                touched |= rows.startswith(stored)
        if not touched.any():
            return strings
        shown = strings.tolist()
        for row in np.flatnonzero(touched).tolist():
            shown[row] = self.shown(shown[row])
        return Strings.from_list(shown)


def is_at_or_below(path: bytes, folder: bytes) -> bool:
    """Whether a path is that of a folder or of something in it."""
    if not path.startswith(folder):
        return False
    return len(path) == len(folder) or folder.endswith(b"/") or path[len(folder)] == ord("/")


def _joined(folder: bytes, rest: bytes) -> bytes:
    # "/" is the only folder with a slash at its end.
    if folder.endswith(b"/"):
        return folder + rest.lstrip(b"/")
    return folder + rest if not rest or rest.startswith(b"/") else folder + b"/" + rest


def _parse_root(stored: Mapping[str, Any]) -> Root:
    path, own, relative = stored["path"], stored["stored"], stored["relative"]
    exclude, hidden, mount = stored["exclude"], stored["include_hidden"], stored.get("mount")
    if not isinstance(hidden, bool) or not isinstance(exclude, list):
        raise ValueError
    if not all(isinstance(pattern, str) for pattern in exclude):
        raise ValueError
    root = Root(
        _bytes(path),
        _bytes(own),
        None if relative is None else _bytes(relative),
        tuple(exclude),
        hidden,
        None if mount is None else _bytes(mount),
    )
    if not (is_absolute(root.path) and is_absolute(root.stored.lstrip(_LITERAL))):
        raise ValueError
    if not all(place is None or not is_remote(root.path) for place in (root.relative, root.mount)):
        raise ValueError
    if root.mount is not None and not root.mount.startswith(b"/"):
        raise ValueError
    return root


# The same text with any locale; bytes that are not UTF-8 come back as they were.
def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    path = text.encode("utf-8", "surrogateescape")
    if b"\0" in path or not path:
        raise ValueError
    return path
