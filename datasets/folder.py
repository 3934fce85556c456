"""Listing of image folders: which files may be images, each real file once.

Paths are bytes, because a file name on Linux is bytes in any encoding.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from hyperpq.datasets.file_table import FileTable
from hyperpq.datasets.ignore import IGNORE_FILE, IgnorePatterns, IgnoreRules
from hyperpq.datasets.image_files import examine, is_hidden
from hyperpq.datasets.listing import ImageFile, Listing, RootOptions
from hyperpq.datasets.path_table import PathTable, SortedNames, with_slash
from hyperpq.datasets.remote_source import RemoteSource
from hyperpq.datasets.root_faults import GONE, missing_root, root_fault
from hyperpq.datasets.source_listing import images_in, is_image
from hyperpq.datasets.tar_source import COMPRESSED, TarSource, is_shard
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.utils.locations import absolute, is_remote

# Files of which a listing of object storage tells at once.
_TOLD = 1000

OnSkip = Callable[[bytes, str], None]


def list_images(
    roots: Sequence[str | bytes | Path],
    *,
    include_hidden: bool = False,
    exclude: Sequence[str] = (),
    on_skip: OnSkip | None = None,
) -> list[ImageFile]:
    """List every file below the roots that may be an image.

    Parameters
    ----------
    roots, include_hidden, exclude
        See `scan_roots`.
    on_skip : callable, optional
        Called with the path and the reason for each entry that cannot be examined.

    Returns
    -------
    list of ImageFile
        See `scan_roots`.

    Raises
    ------
    DatasetError, InvalidInputError
        See `scan_roots`.
    """
    listing = scan_roots(roots, include_hidden=include_hidden, exclude=exclude)
    if on_skip is not None:
        for path, reason in listing.skipped.items():
            on_skip(path, reason)
    return [*listing.files]


def scan_roots(
    roots: Sequence[str | bytes | Path],
    *,
    include_hidden: bool = False,
    exclude: Sequence[str] = (),
    leave_out: Sequence[str | bytes | Path] = (),
    is_left_out: Callable[[bytes], bool] | None = None,
    allow_missing: bool = False,
    options: Mapping[bytes, RootOptions] | None = None,
    on_found: Callable[[int], None] | None = None,
) -> Listing:
    """List every file below the roots that may be an image, and say what could not be examined.

    Parameters
    ----------
    roots : sequence of paths
        Folders, tar shards, single files, which are always listed, or URLs of folders or images in
        object storage.
    include_hidden, exclude
        See `RootOptions`.
    leave_out : sequence of paths
        Folders that are not looked into, by whatever name or link they are reached.
    is_left_out : callable, optional
        Called with the path of each folder below a root; says whether it is not looked into.
    allow_missing : bool
        Whether a root that does not exist counts as one without images; else it is an error.
    options : mapping of bytes to RootOptions, optional
        Absolute paths of roots that have other options than ``include_hidden`` and ``exclude``.
    on_found : callable, optional
        Called with the number of images that have been found in each folder.

    Returns
    -------
    Listing
        A file with a known image extension is always listed; any other file is listed if its
        first bytes are those of an image. The images in a tar file are listed below its path, see
        `datasets.source_listing.images_in`. Broken links, unreadable folders, pipes, sockets and
        devices are skipped.

    Raises
    ------
    DatasetError
        If a root is missing or unreadable, an ignore file is unreadable, or a root is on another
        device after it was listed, as when a disk is unmounted.
    InvalidInputError
        If a pattern is not valid, or a root is a URL of an unknown protocol.
    MissingDependencyError
        If a package is missing for a root that is a URL.

    Notes
    -----
    Links to files and folders are followed after all real folders have been listed. Each real file
    appears once, under its real name if that is below a root; loops of links are detected.
    """
    paths = [absolute(root) for root in roots]
    default = RootOptions(include_hidden, tuple(exclude))
    chosen = {path: (options or {}).get(path, default) for path in paths}
    patterns = {path: _patterns(chosen[path].exclude) for path in paths}
    hidden = {path for path in paths if chosen[path].include_hidden}
    return _Run(hidden, leave_out, is_left_out, allow_missing, on_found).scan(patterns)


def _patterns(exclude: Sequence[str]) -> IgnorePatterns:
    patterns = IgnorePatterns.from_lines(map(os.fsencode, exclude))
    if patterns.invalid:
        raise InvalidInputError(
            f"exclude has {os.fsdecode(patterns.invalid[0])!r}, which matches nothing; expected "
            "patterns in the syntax of .gitignore."
        )
    return patterns


class _Run:
    """The state of one listing: the entries seen so far and the links still to follow."""

    def __init__(
        self,
        with_hidden: Collection[bytes],
        leave_out: Iterable[str | bytes | Path],
        is_left_out: Callable[[bytes], bool] | None,
        allow_missing: bool,
        on_found: Callable[[int], None] | None,
    ) -> None:
        # Roots whose hidden files are listed.
        self.with_hidden = with_hidden
        self.on_found = on_found
        self.allow_missing = allow_missing
        self.files = FileTable()
        self.found, self.n_shards = Listing(files=self.files), 0
        # Paths in object storage, where one root is in another.
        self.seen_remote: set[bytes] = set()
        # Where each folder was first seen, by device and inode.
        self.seen: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        self.links: PathTable[tuple[bytes, IgnoreRules]] = PathTable()
        self.is_left_out = is_left_out
        self.left_out = {_identity(status) for status in map(_status, leave_out) if status}
        # Folders of other roots that a root has, too, by links.
        self.shared: defaultdict[bytes, set[bytes]] = defaultdict(set)

    def scan(self, roots: Mapping[bytes, IgnorePatterns]) -> Listing:
        """List the real folders of all roots, then the targets of links, round by round.

        Each root has the patterns of what is left out.
        """
        identities = {}
        # Parents before children, so that the rules of the outermost root apply.
        for path in sorted(roots):
            if is_remote(path):
                self._add_remote(path, IgnoreRules.of_root(path, roots[path]), [*roots])
                continue
            status = self._root(path)
            if status is None:
                continue
            device, inode = identities[path] = _identity(status)
            if stat.S_ISDIR(status.st_mode):
                rules = IgnoreRules.of_root(path, roots[path])
                self._walk(path, path, device, inode, rules)
            else:
                self._add_root(path, status, IgnoreRules.of_root(path, roots[path]))
        while self.links:
            links, self.links = self.links, PathTable()
            for start, stop in links.in_order().tolist():
                root, rules = links.tag(start)
                for path in links.paths(start, stop):
                    self._follow(path, root, rules)
        with_others = self.files.finish()
        for path, (device, _) in identities.items():
            # The inode says less: some file systems number a file anew when it is looked up again.
            status = _status(path)
            if status is None or status.st_dev != device:
                raise DatasetError(
                    f"{os.fsdecode(path)} is another one than when its listing began, as after a "
                    "disk was unmounted; run the command again."
                )
        for root in sorted(roots.keys() - with_others):
            device, inode = identities.get(root, (-1, -1))
            other_name = self.seen[device].get(inode, root)
            if not any(map(self._has_images, (root, other_name, *self.shared[root]))):
                self.found.empty.append(root)
        return self.found

    def _root(self, path: bytes) -> os.stat_result | None:
        """Status of a root; None if it does not exist and that is allowed."""
        if fault := root_fault(path):
            raise DatasetError(f"{os.fsdecode(path)} {fault}; give a readable folder of images.")
        status = _status(path)
        if status is None and not self.allow_missing:
            raise missing_root(path)
        return status

    def _has_images(self, root: bytes) -> bool:
        """Whether an image at or below ``root`` was listed."""
        for prefix in (root, with_slash(root)):
            at = bisect_left(self.files, prefix, key=lambda file: file.path)
            paths = [file.path for file in self.files[at : at + 1]]
            if any(path == root or path.startswith(with_slash(root)) for path in paths):
                return True
        return False

    def _walk(self, root: bytes, start: bytes, device: int, inode: int, rules: IgnoreRules) -> None:
        """List a folder and all real folders below it; links are kept for later."""
        waiting = [(start, device, inode, rules)]
        while waiting:
            folder, device, inode, rules = waiting.pop()
            if (device, inode) in self.left_out or not self._is_new(root, folder, device, inode):
                continue
            if self.is_left_out is not None and folder != root and self.is_left_out(folder):
                continue
            before = self.files.n_found
            try:
                names = SortedNames(folder, IGNORE_FILE)
            except OSError as error:
                self._skip(folder, error)
                continue
            if names.has_sought:
                rules = rules.within(folder)
            prefix = with_slash(folder)
            for name in names:
                if root not in self.with_hidden and is_hidden(name):
                    continue
                path = prefix + name
                try:
                    status = os.lstat(path)
                except OSError as error:
                    self._skip(path, error)
                    continue
                if stat.S_ISLNK(status.st_mode):
                    self.links.append(folder, name, (root, rules))
                elif stat.S_ISDIR(status.st_mode):
                    if not rules.ignore(path, is_folder=True):
                        waiting.append((path, *_identity(status), rules))
                elif not rules.ignore(path, is_folder=False):
                    if is_shard(path, status):
                        self._add_shard(root, path, status, rules)
                    else:
                        self._consider(root, path, folder, name, status)
            if self.on_found is not None:
                self.on_found(self.files.n_found - before)

    def _follow(self, path: bytes, root: bytes, rules: IgnoreRules) -> None:
        """List the target of a link."""
        try:
            status = os.stat(path)
        except OSError as error:
            if rules.ignore(path, is_folder=False):
                return
            self._skip(path, error)
            if error.errno in GONE:
                self.found.skipped[path] = "broken link"
                # It may lead to a file or folder of a disk that is not mounted.
                self.found.unknown.add(path)
            return
        is_folder = stat.S_ISDIR(status.st_mode)
        if rules.ignore(path, is_folder):
            return
        if is_folder:
            self._walk(root, path, *_identity(status), rules)
        elif is_shard(path, status):
            self._add_shard(root, path, status, rules)
        else:
            self._consider(root, path, *os.path.split(path), status)

    def _consider(
        self, root: bytes, path: bytes, folder: bytes, name: bytes, status: os.stat_result
    ) -> None:
        """Add a file, by its path and by the two parts of that, if it may be an image."""
        try:
            if examine(path, status, self.found):
                self.files.append(root, folder, name, status)
        except OSError as error:
            self._skip(path, error)

    def _add_root(self, path: bytes, status: os.stat_result, rules: IgnoreRules) -> None:
        """Add a file that was named, whatever it is."""
        if path.lower().endswith(COMPRESSED):
            raise DatasetError(
                f"{os.fsdecode(path)} is compressed, so its images cannot be read one by one; "
                "expected a tar file that is not; unpack it, or write it again without compression."
            )
        if is_shard(path, status):
            self._add_shard(path, path, status, rules)
        else:
            self.files.append(path, *os.path.split(path), status)

    def _add_shard(
        self, root: bytes, path: bytes, status: os.stat_result, rules: IgnoreRules
    ) -> None:
        """Add the images of a shard, which counts as a folder."""
        if not self._is_new(root, path, *_identity(status)):
            return
        self.n_shards += 1
        hidden = root in self.with_hidden
        try:
            found = images_in(TarSource(path), path, self.found, rules, include_hidden=hidden)
            for number, file in enumerate(sorted(found, key=lambda file: file.path)):
                # Members of other shards, and files, have another device.
                self.files.append_file(root, file, -self.n_shards, number)
        except OSError as error:
            self._skip(path, error)

    def _add_remote(self, root: bytes, rules: IgnoreRules, roots: Sequence[bytes]) -> None:
        """Add the images below a URL, or the one that is there."""
        if fault := root_fault(root):
            raise DatasetError(
                f"{os.fsdecode(root)} {fault}; check its name, the credentials and the address of "
                "the storage."
            )
        source = RemoteSource()
        try:
            if not source.is_folder(root):
                file = source.status(root)
                files: Iterable[ImageFile] = [file] if is_image(source, file, self.found) else []
            else:
                hidden = root in self.with_hidden
                files = images_in(source, root, self.found, rules, include_hidden=hidden)
        except FileNotFoundError:
            if not self.allow_missing:
                raise missing_root(root) from None
            return
        except OSError as error:
            self._skip(root, error)
            return
        self.n_shards += 1
        has_roots = any(other != root and other.startswith(with_slash(root)) for other in roots)
        before = self.files.n_found
        for number, file in enumerate(files):
            if file.path in self.seen_remote:
                continue
            if has_roots:
                self.seen_remote.add(file.path)
            self.files.append_file(root, file, -self.n_shards, number)
            if self.on_found is not None and self.files.n_found - before == _TOLD:
                self.on_found(_TOLD)
                before = self.files.n_found
        if self.on_found is not None:
            self.on_found(self.files.n_found - before)

    def _is_new(self, root: bytes, path: bytes, device: int, inode: int) -> bool:
        """Record a folder; False if it was recorded before."""
        first = self.seen[device].setdefault(inode, path)
        if first is path:
            return True
        if path != root and not first.startswith(with_slash(root)) and first != root:
            self.shared[root].add(first)
        return False

    def _skip(self, path: bytes, error: OSError) -> None:
        """Report an entry after an error of the system."""
        self.found.skipped[path] = (error.strerror or "cannot be read").lower()
        if error.errno not in GONE:
            self.found.unknown.add(path)


def _status(path: str | bytes | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
