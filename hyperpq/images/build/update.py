"""`update_index`: bring an index up to date with its folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images import skipped as skipped_files
from hyperpq.images.build.listing import no_image_found
from hyperpq.images.build.lost_roots import left_out_roots
from hyperpq.images.build.options import BuildChoices, BuildReport
from hyperpq.images.build.update_plan import UpdatePlan, UpdateRequest
from hyperpq.images.changes import entries
from hyperpq.images.decoders import WorkersLike
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.listing import PathLike
from hyperpq.images.relearning import Relearn, relearn_if_needed
from hyperpq.images.roots import (
    change_roots,
    find_moved_roots,
    gone_images,
    moved_to,
    recorded_roots,
    with_listed,
    without,
)
from hyperpq.images.updater import Updater
from hyperpq.progress import Progress, ProgressLike, as_progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hyperpq.backbones.base import Backbone
    from hyperpq.index.hihpq_index import HiHPQIndex


def update_index(
    roots: PathLike | Sequence[PathLike] | None,
    path: str | os.PathLike[str],
    *,
    remove_missing: bool = True,
    allow_empty: bool = False,
    relearn: Relearn = "auto",
    backbone: Backbone | str | None = None,
    device: str = "auto",
    workers: WorkersLike = 0,
    progress: ProgressLike = None,
    **options: Unpack[BuildChoices],
) -> tuple[ImageIndex, BuildReport]:
    """Bring an existing index up to date with folders of images.

    Parameters
    ----------
    roots : path-like, sequence of path-like, or None
        Folders or images; None for all folders that the index records. Of these, those that have
        lost their images (see `images.build.lost_roots`) are left out, and their images are kept:
        their disk may not be mounted. So are recorded folders that are in one of the given ones.
    path, backbone, device, workers, progress, **options
        As in `build_index`.
    remove_missing : bool
        Whether to remove images of the index that are no longer in the folders.
    allow_empty : bool
        Whether a root of which the index has images may have none any more, be a file, or be gone.
        By default that is an error, because a disk that is not mounted looks like that.
    relearn : {"auto", "never", "now"}
        Whether the codec is learned again from the kept features once the images are stored: if it
        does not fit them any more (see `images.relearning`), never, or in any case. No image is
        decoded for it, and the new codec and all codes are one commit.

    Returns
    -------
    index : ImageIndex
    report : BuildReport

    Raises
    ------
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    DatasetError
        If there is no image, or one of the roots has none any more.
    InvalidInputError
        If the index was built with other options, ``roots`` is None and it records no folder, or
        ``relearn`` is ``now`` and it keeps no features.
    StoreError
        If the system refuses to write.

    Notes
    -----
    An image is removed if the system says that its file is gone (or if it is excluded now, or is
    no image any more). It is kept if the system does not say so: at or below a folder or an entry
    that cannot be examined, at or below a broken link, and if its file has changed and cannot be
    read.

    Images that have been moved or renamed are not encoded again, and keep their ids. A whole
    folder has moved if it does not exist any more and at least half of its images are in a folder
    that is listed, by the same names, sizes and times; all of them, if the file system that it was
    on is not mounted, or not known. Nothing is read then. For single files see
    `images.moves.find_moves`. The folders are recorded, with ``exclude``, ``include_hidden`` and
    the mount points of their file systems.
    """
    target = Path(os.path.abspath(path))
    progress = as_progress(progress)
    request = UpdateRequest(remove_missing, allow_empty, relearn, options)
    # What is wrong with the folders is said before the codec and the network are loaded.
    plan = UpdatePlan.of(target, roots, request, progress)
    with progress.phase("open", None, ""):
        images = ImageIndex.open(target, device=device, backbone=backbone)
    return images, _apply(images, plan, workers, progress)


def update_images(
    images: ImageIndex,
    roots: PathLike | Sequence[PathLike] | None = None,
    *,
    remove_missing: bool = True,
    allow_empty: bool = False,
    relearn: Relearn = "auto",
    workers: WorkersLike = 0,
    progress: ProgressLike = None,
    **options: Unpack[BuildChoices],
) -> BuildReport:
    """Bring an index that is open up to date; see `update_index`."""
    images.index.collection.check_writable()
    if images.index.path is None:
        raise InvalidInputError("the index is in memory; expected one in a directory; save it.")
    progress = as_progress(progress)
    request = UpdateRequest(remove_missing, allow_empty, relearn, options)
    plan = UpdatePlan.of(images.index.path, roots, request, progress)
    return _apply(images, plan, workers, progress)


def _apply(
    images: ImageIndex, plan: UpdatePlan, workers: WorkersLike, progress: Progress
) -> BuildReport:
    """Make an update whose roots have been listed."""
    images.max_megapixels = plan.options.max_megapixels
    index, request = images.index, plan.request
    if request.relearn == "now":
        # An error, if there are none, is not kept for the end.
        index.collection.view().kept_by()
    recorded = recorded_roots(index)
    # Where recorded folders are that are gone; they are not among the listed ones then.
    places = find_moved_roots(recorded, entries(index.collection), plan.listing.files)
    plan = plan.with_options_of_moved(recorded, places, progress)
    listing, gone = plan.listing, gone_images(recorded, entries(index.collection))
    known = (path for path, *_ in entries(index.collection))
    away = left_out_roots(plan, known, recorded, places, gone)
    present = [root for root in plan.listed if root not in places and root not in away]
    if not present:
        raise _nothing_there(plan, away)
    if not listing.files and not request.may_empty_folders:
        raise no_image_found(present, listing)
    if places:
        change_roots(index, lambda roots: moved_to(roots, places))
        skipped_files.update_report(index.collection, {}, (), [*places])
    there = {root: plan.listed[root] for root in present if root not in gone}
    change_roots(index, lambda roots: with_listed(roots, there, index.path))
    update = Updater(images).update(
        # A file may be where a folder was that is left out.
        [file for file in listing.files if file.path not in away],
        remove_below=present if request.remove_missing else (),
        # A folder that is away may be below one that is present.
        unknown=listing.unknown | away.keys(),
        skipped=listing.skipped | away,
        workers=workers,
        progress=progress,
    )
    if gone:
        _forget_images(index, gone)
    options = plan.options
    relearned = relearn_if_needed(
        index, request.relearn, train_size=options.train_size, seed=options.seed, progress=progress
    )
    index.collection.store_recall()
    return BuildReport(
        images=len(images),
        added=update.added,
        removed=update.removed,
        skipped=update.skipped,
        seconds=dict(progress.seconds),
        kept=update.kept,
        other=dict(listing.other),
        moved=update.moved,
        places=places,
        relearned=relearned,
    )


def _nothing_there(plan: UpdatePlan, away: Mapping[bytes, str]) -> DatasetError:
    """The error for an update all of whose roots are left out."""
    root = min(away)
    return DatasetError(
        f"none of the folders of {plan.target} has an image now, such as {os.fsdecode(root)}, "
        f"which {away[root].partition(';')[0]}; check that their disks are mounted; if a folder "
        "has moved, name its new place: hyperpq build DIR."
    )


def _forget_images(index: HiHPQIndex, gone: set[bytes]) -> None:
    """Record single images no more whose files are gone, if the index has them there no more."""
    left = gone - {path for path, *_ in entries(index.collection)}
    if left:
        change_roots(index, lambda roots: without(roots, [*left]))
        skipped_files.update_report(index.collection, {}, (), [*left])
