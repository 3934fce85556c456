"""`update_index`: bring an index up to date with its folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpq.datasets.folder import Listing, RootOptions, missing_root
from hyperpq.errors import CorruptIndexError, DatasetError, InvalidInputError
from hyperpq.images import skipped as skipped_files
from hyperpq.images.build.listing import list_for_build, no_image_found
from hyperpq.images.build.lost_roots import find_lost_roots
from hyperpq.images.build.options import (
    FIXED_OPTIONS,
    BuildChoices,
    BuildOptions,
    BuildReport,
    check_codec_alone,
)
from hyperpq.images.build.state import BuildState
from hyperpq.images.changes import entries, is_below, is_unknown
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.listing import PathLike, as_roots
from hyperpq.images.metadata import ImageMetadata, no_images
from hyperpq.images.relearning import MODES, Relearn, relearn_if_needed
from hyperpq.images.roots import (
    Roots,
    change_roots,
    find_moved_roots,
    moved_to,
    present_roots,
    recorded_roots,
    with_listed,
)
from hyperpq.images.updater import Updater
from hyperpq.index.view import RowView
from hyperpq.progress import Progress, ProgressLike, as_progress
from hyperpq.store import IndexStore, find_place
from hyperpq.utils.validation import as_choice

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hyperpq.backbones.base import Backbone


def update_index(
    roots: PathLike | Sequence[PathLike] | None,
    path: str | os.PathLike[str],
    *,
    remove_missing: bool = True,
    allow_empty: bool = False,
    relearn: Relearn = "auto",
    backbone: Backbone | str | None = None,
    device: str = "auto",
    workers: int = 0,
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
    progress, relearn = as_progress(progress), as_choice(relearn, "relearn", MODES)
    # What is wrong with the folders is said before the codec and the network are loaded.
    plan = _list(target, roots, remove_missing, allow_empty, progress, options)
    with progress.phase("open", None, ""):
        images = ImageIndex.open(target, device=device, backbone=backbone)
    return images, _apply(images, plan, workers, relearn, progress)


def update_images(
    images: ImageIndex,
    roots: PathLike | Sequence[PathLike] | None = None,
    *,
    remove_missing: bool = True,
    allow_empty: bool = False,
    relearn: Relearn = "auto",
    workers: int = 0,
    progress: ProgressLike = None,
    **options: Unpack[BuildChoices],
) -> BuildReport:
    """Bring an index that is open up to date; see `update_index`."""
    images.index.collection.check_writable()
    if images.index.path is None:
        raise InvalidInputError("the index is in memory; expected one in a directory; save it.")
    progress, relearn = as_progress(progress), as_choice(relearn, "relearn", MODES)
    plan = _list(images.index.path, roots, remove_missing, allow_empty, progress, options)
    return _apply(images, plan, workers, relearn, progress)


@dataclass(frozen=True)
class _Plan:
    """What an update has listed.

    Attributes
    ----------
    target : Path
        Directory of the index.
    given : BuildChoices
        The options of this update.
    options : BuildOptions
        The options of the index with those of this update.
    listed : dict of bytes to RootOptions
        The roots, and how they were listed.
    listing : Listing
        What was found.
    are_named : bool
        Whether the roots were given, and not those that the index records.
    remove_missing, allow_empty : bool
        See `update_index`.
    """

    target: Path
    given: BuildChoices
    options: BuildOptions
    listed: dict[bytes, RootOptions]
    listing: Listing
    are_named: bool
    remove_missing: bool
    allow_empty: bool


def _list(
    target: Path,
    roots: PathLike | Sequence[PathLike] | None,
    remove_missing: bool,
    allow_empty: bool,
    progress: Progress,
    options: BuildChoices,
) -> _Plan:
    """List the roots of an update; neither the codec nor the rows of the index are read."""
    named = None if roots is None else as_roots(roots)
    check_codec_alone(options)
    store = IndexStore.open(target)
    settings = store.settings.get("metadata", {})
    metadata = ImageMetadata.from_index(settings if isinstance(settings, dict) else {})
    if metadata is None:
        raise no_images(target)
    chosen = _options_of(metadata, store.settings, target, options)
    recorded = present_roots(settings, store.path)
    if named is None and not recorded:
        raise InvalidInputError(
            f"{target} records no folder: its images were added one by one or by an earlier "
            "version, or its folders were forgotten; name its folders: hyperpq build DIR."
        )
    paths = [root.path for root in recorded] if named is None else named
    listed = {path: _root_options(path, recorded, chosen, options) for path in paths}
    allow_missing = remove_missing or named is None
    listing = _listing(target, listed, chosen, progress, allow_missing)
    if named is not None and not allow_empty:
        # A mistyped name; a folder of which the index has images is found out about later.
        for root in listing.empty:
            if not os.path.lexists(root) and not _has_images(store, root):
                raise missing_root(root)
    return _Plan(
        target, options, chosen, listed, listing, named is not None, remove_missing, allow_empty
    )


def _listing(
    target: Path,
    listed: Mapping[bytes, RootOptions],
    options: BuildOptions,
    progress: Progress,
    allow_missing: bool,
) -> Listing:
    """The images below the roots, without those in the directories of the index."""
    place = find_place(target)
    return list_for_build(
        list(listed),
        place.path,
        BuildState(place.working_directory(".building")),
        options,
        progress,
        allow_missing=allow_missing,
        per_root=listed,
    )


def _has_images(store: IndexStore, root: bytes) -> bool:
    """Whether an index has images at or below a path."""
    below = (os.path.join(root, b""),)
    return any(
        is_below(path, below) for rows in RowView(0, store).batches() for path in rows.paths or ()
    )


def _apply(
    images: ImageIndex, plan: _Plan, workers: int, relearn: Relearn, progress: Progress
) -> BuildReport:
    """Make an update whose roots have been listed."""
    images.max_megapixels = plan.options.max_megapixels
    index = images.index
    if relearn == "now":
        # An error, if there are none, is not kept for the end.
        index.collection.view().kept_by()
    files = {file.path: file for file in plan.listing.files}
    # Where recorded folders are that are gone; they are not among the listed ones then.
    places = find_moved_roots(recorded_roots(index), entries(index.collection), files)
    plan = _with_options_of_moved(plan, recorded_roots(index), places, progress)
    listing = plan.listing
    away = _roots_without_images(images, plan, places)
    present = [root for root in plan.listed if root not in places and root not in away]
    if not present:
        raise DatasetError(
            f"none of the folders of {plan.target} has an image now, such as "
            f"{os.fsdecode(min(away))}; check that their disks are mounted; if a folder has moved, "
            "name its new place: hyperpq build DIR."
        )
    if not listing.files and not (plan.remove_missing and plan.allow_empty):
        raise no_image_found(present, listing)
    if places:
        change_roots(index, lambda roots: moved_to(roots, places))
        skipped_files.update_report(index.collection, {}, (), [*places])
    change_roots(
        index, lambda roots: with_listed(roots, {p: plan.listed[p] for p in present}, index.path)
    )
    update = Updater(images).update(
        # A file may be where a folder was that is left out.
        [file for file in listing.files if file.path not in away],
        remove_below=present if plan.remove_missing else (),
        # A folder that is away may be below one that is present.
        unknown=listing.unknown | away.keys(),
        skipped=listing.skipped | away,
        workers=workers,
        progress=progress,
    )
    options = plan.options
    relearned = relearn_if_needed(
        index, relearn, train_size=options.train_size, seed=options.seed, progress=progress
    )
    return BuildReport(
        len(images),
        update.added,
        update.removed,
        update.skipped,
        dict(progress.seconds),
        update.kept,
        dict(listing.other),
        update.moved,
        places,
        relearned,
    )


def _with_options_of_moved(
    plan: _Plan, recorded: Roots, places: Mapping[bytes, bytes], progress: Progress
) -> _Plan:
    """The plan with folders that have moved listed as they were at their former place."""
    options = {
        place: _root_options(former, recorded, plan.options, plan.given)
        for former, place in places.items()
        if place in plan.listed
    }
    if all(plan.listed[place] == chosen for place, chosen in options.items()):
        return plan
    listed = {**plan.listed, **options}
    listing = _listing(plan.target, listed, plan.options, progress, True)
    return replace(plan, listed=listed, listing=listing)


def _options_of(
    metadata: ImageMetadata, settings: Mapping[str, Any], target: Path, options: BuildChoices
) -> BuildOptions:
    """The options of an index with those of this update."""
    try:
        # `retrain` may have changed the length of the codes.
        bits = settings["M"] * settings["nbits"]
        built = BuildOptions.from_stored({**metadata.options, "bits": bits})
    except (InvalidInputError, KeyError, TypeError) as error:
        raise CorruptIndexError(
            f"{target / 'manifest.json'} holds options of the build that are not valid: {error}"
        ) from error
    for name, value in sorted(options.items()):
        old = getattr(built, name, None)
        if name in FIXED_OPTIONS and value != old:
            raise InvalidInputError(
                f"{name.replace('_', '-')} is {value}; {target} was built with "
                f"{'that of the recipe' if old is None else old}; leave the option out, or build "
                "anew with --overwrite."
            )
    return replace(built, **options)


def _root_options(
    path: bytes, recorded: Roots, chosen: BuildOptions, options: BuildChoices
) -> RootOptions:
    """How a root is listed: as this update asks for, or as before, or as the index was built."""
    before = next((root for root in recorded if root.path == path), chosen)
    return RootOptions(
        chosen.include_hidden if "include_hidden" in options else before.include_hidden,
        tuple(chosen.exclude if "exclude" in options else before.exclude),
    )


def _roots_without_images(
    images: ImageIndex, plan: _Plan, places: Mapping[bytes, bytes]
) -> dict[bytes, str]:
    """Recorded roots that are left out, as they have lost their images, and why.

    Raises
    ------
    DatasetError
        If one that was named has lost its images, or never had one and is missing.
    """
    if plan.remove_missing and plan.allow_empty:
        return {}
    away = {}
    known = (path for path, *_ in entries(images.index.collection))
    roots = recorded_roots(images.index)
    for root, lost in find_lost_roots(known, plan.listed, plan.listing, roots).items():
        is_named = plan.are_named and root in plan.listed
        if root in places:
            continue
        may_be_there = all(is_unknown(path, plan.listing.unknown) for path in lost.images)
        if is_named and plan.remove_missing and not may_be_there:
            raise DatasetError(
                f"{os.fsdecode(root)} {lost.what}, and {plan.target} has {len(lost.images):,} of "
                "its images, so nothing was changed; check that the disk is mounted; to keep these "
                "images, leave the folder out; if it has moved, name its new place instead; to "
                "remove them, use hyperpq forget, or repeat the command with --allow-empty."
            )
        if is_named and lost.is_missing:
            raise missing_root(root)
        away[root] = f"{lost.what}; its images are kept"
    return away
