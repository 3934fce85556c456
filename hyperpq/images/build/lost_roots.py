"""Folders of an index that have lost their images since they were listed, and may be away."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hyperpq.datasets.file_source import is_folder, may_exist
from hyperpq.datasets.folder import scan_roots
from hyperpq.datasets.listing import Listing, RootOptions
from hyperpq.datasets.root_faults import missing_root
from hyperpq.errors import DatasetError
from hyperpq.images.build.update_plan import UpdatePlan
from hyperpq.images.changes import ancestors, is_unknown
from hyperpq.images.roots import Roots, unmounted
from hyperpq.utils.locations import is_remote

_MISSING, _EMPTY = "does not exist", "has no image"
_UNMOUNTED = "is on a disk that is not mounted"
_NO_FOLDER = "is recorded as a folder, but is no folder now"


@dataclass(frozen=True)
class LostRoot:
    """A folder, or a single image, that has lost its images.

    Attributes
    ----------
    what : str
        What is to be seen of it, for people.
    images : list of bytes
        Paths of its images in the index.
    """

    what: str
    images: list[bytes]

    @property
    def is_missing(self) -> bool:
        """Whether it does not exist."""
        return self.what == _MISSING


def left_out_roots(
    plan: UpdatePlan,
    known: Iterable[bytes],
    recorded: Roots,
    places: Mapping[bytes, bytes],
    gone: Collection[bytes],
) -> dict[bytes, str]:
    """Recorded roots that an update leaves out, as they have lost their images, and why.

    Parameters
    ----------
    plan : UpdatePlan
        What the update has listed.
    known : iterable of bytes
        Paths of the images of the index.
    recorded : tuple of Root
        The folders that the index records.
    places : mapping of bytes to bytes
        Former and present path of those that have moved.
    gone : collection of bytes
        Those that are single images whose files are gone, see `images.roots.gone_images`.

    Raises
    ------
    DatasetError
        If one that was named has lost its images, or never had one and is missing.
    """
    request = plan.request
    if request.may_empty_folders:
        return dict(plan.unexamined)
    away = {root: f"{why}; its images are kept" for root, why in plan.unexamined.items()}
    for root, lost in find_lost_roots(known, plan.listed, plan.listing, recorded).items():
        is_named = plan.are_named and root in plan.listed
        if root in places or (root in gone and not is_named):
            continue
        may_be_there = all(is_unknown(path, plan.listing.unknown) for path in lost.images)
        if is_named and request.remove_missing and not may_be_there:
            raise DatasetError(
                f"{os.fsdecode(root)} {lost.what}, and {plan.target} has {len(lost.images):,} of "
                "its images, so nothing was changed; check that the disk is mounted; to keep these "
                "images, leave the folder out; if it has moved, name its new place instead; to "
                "remove them, use hyperpq forget, or repeat the command with --allow-empty."
            )
        if is_named and lost.is_missing:
            raise missing_root(root)
        away[root] = f"{lost.what}; its images are kept" if lost.images else lost.what
    return away


def find_lost_roots(
    known: Iterable[bytes],
    listed: Mapping[bytes, RootOptions],
    listing: Listing,
    recorded: Roots,
) -> dict[bytes, LostRoot]:
    """Roots that have lost their images, as those have whose disks are not mounted.

    These are roots that have no image any more, or are a file where a folder was. Where the file
    system is not mounted that a root was on, they are also those that have lost more than half of
    their images: what is there now was hidden below the disk.

    Parameters
    ----------
    known : iterable of bytes
        Paths of the images of the index.
    listed : mapping of bytes to RootOptions
        The roots that were listed. Folders that the index records in these are examined, too.
    listing : Listing
        What was found.
    recorded : tuple of Root
        The folders that the index records.

    Returns
    -------
    dict of bytes to LostRoot
        By their paths. Those that are missing are among them, also if the index has none of their
        images, if they were listed.
    """
    suspects = _suspects(listed, listing, recorded)
    if not suspects:
        return {}
    files = {file.path for file in listing.files}
    lost = {}
    for root, own in _below(known, suspects).items():
        what = suspects[root]
        if root not in listed or what == _NO_FOLDER:
            # A single image, which was no folder.
            own = [path for path in own if path != root]
        images = [path for path in own if path not in files]
        if what == _UNMOUNTED and 2 * len(images) <= len(own):
            continue
        if images or (what == _MISSING and root in listed):
            lost[root] = LostRoot(what, images)
    return lost


def _suspects(
    listed: Mapping[bytes, RootOptions], listing: Listing, recorded: Roots
) -> dict[bytes, str]:
    """Roots that may have lost their images, and what is to be seen of them."""
    found, away, empty = {}, unmounted(recorded), {*listing.empty}
    inner = {
        root.path: RootOptions(root.include_hidden, root.exclude)
        for root in recorded
        if root.path not in listed and any(folder in listed for folder in ancestors(root.path))
    }
    seen = _below((file.path for file in listing.files), inner)
    empty |= {root for root in inner if not seen[root] and _is_empty(root, inner[root])}
    for root in [*listed, *inner]:
        if not _exists(root):
            found[root] = _MISSING
        elif not is_folder(root):
            found[root] = _NO_FOLDER
        elif root in empty and root in listing.unknown:
            found[root] = f"cannot be listed ({listing.skipped[root]})"
        elif root in empty:
            found[root] = _EMPTY
        elif root in away:
            found[root] = _UNMOUNTED
    return found


def _exists(root: bytes) -> bool:
    """Whether a root is there, and no broken link."""
    return may_exist(root) if is_remote(root) else os.path.exists(root)


def _is_empty(root: bytes, options: RootOptions) -> bool:
    """Whether there is no image below a folder; one that cannot be read is not empty."""
    try:
        return bool(scan_roots([root], allow_missing=True, options={root: options}).empty)
    except DatasetError:
        return False


def _below(known: Iterable[bytes], roots: Collection[bytes]) -> dict[bytes, list[bytes]]:
    """Those of the paths that are at or below each root."""
    own: dict[bytes, list[bytes]] = {root: [] for root in roots}
    # There may be thousands of roots, and most paths have their folder in common with others.
    above: dict[bytes, list[bytes]] = {}
    for path in known if own else ():
        folder = os.path.dirname(path)
        if folder not in above:
            above[folder] = [root for root in ancestors(folder) if root in own]
        for root in above[folder]:
            own[root].append(path)
        if path in own:
            own[path].append(path)
    return own
