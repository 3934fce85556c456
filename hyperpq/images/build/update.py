"""`update_index`: bring an index up to date with its folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpq.datasets.folder import Listing
from hyperpq.errors import CorruptIndexError, DatasetError, InvalidInputError
from hyperpq.images.build.options import (
    FIXED_OPTIONS,
    BuildChoices,
    BuildOptions,
    BuildReport,
    check_codec_alone,
)
from hyperpq.images.build.stages import list_for_build, no_image_found
from hyperpq.images.build.state import BuildState
from hyperpq.images.changes import is_below, is_unknown
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.listing import PathLike, as_roots
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store import find_place

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hyperpq.backbones.base import Backbone


def update_index(
    roots: PathLike | Sequence[PathLike],
    path: str | os.PathLike[str],
    *,
    remove_missing: bool = True,
    allow_empty: bool = False,
    backbone: Backbone | str | None = None,
    device: str = "auto",
    workers: int = 0,
    progress: ProgressLike = None,
    **options: Unpack[BuildChoices],
) -> tuple[ImageIndex, BuildReport]:
    """Add the new and changed images below some folders to an existing index.

    Parameters
    ----------
    roots, path, backbone, device, workers, progress, **options
        As in `build_index`.
    remove_missing : bool
        Whether to remove images of the index that are no longer in the folders.
    allow_empty : bool
        Whether a root of which the index has images may have none any more, or be gone. By default
        that is an error, because a disk that is not mounted looks like that.

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
        If the index was built with other options.
    StoreError
        If the system refuses to write.

    Notes
    -----
    An image is removed if the system says that its file is gone (or if it is excluded now, or is
    no image any more). It is kept if the system does not say so: at or below a folder or an entry
    that cannot be examined, at or below a broken link, and if its file has changed and cannot be
    read.
    """
    target, roots = Path(os.path.abspath(path)), as_roots(roots)
    progress = as_progress(progress)
    check_codec_alone(options)
    images = ImageIndex.open(target, device=device, backbone=backbone)
    chosen = _options_of(images, target, options)
    images.max_megapixels = chosen.max_megapixels
    place = find_place(target)
    listing = list_for_build(
        roots,
        place.path,
        BuildState(place.working_directory(".building")),
        chosen,
        progress,
        allow_missing=remove_missing,
    )
    if remove_missing and not allow_empty:
        _check_roots(images, listing, target)
    if not listing.files and not (remove_missing and allow_empty):
        raise no_image_found(roots, listing)
    update = images.update(
        listing.files,
        remove_below=roots if remove_missing else (),
        unknown=listing.unknown,
        skipped=listing.skipped,
        workers=workers,
        progress=progress,
    )
    return images, BuildReport(
        len(images),
        update.added,
        update.removed,
        update.skipped,
        dict(progress.seconds),
        update.kept,
        dict(listing.other),
    )


def _options_of(images: ImageIndex, target: Path, options: BuildChoices) -> BuildOptions:
    """The options of an index with those of this update."""
    try:
        built = BuildOptions.from_stored(images.metadata.options)
    except InvalidInputError as error:
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


def _check_roots(images: ImageIndex, listing: Listing, target: Path) -> None:
    """Raise `DatasetError` if a root has lost all its images, or never had one and is missing."""
    if not listing.empty:
        return
    paths = [path for path in images.paths() if not is_unknown(path, listing.unknown)]
    for root in listing.empty:
        name = os.fsdecode(root)
        lost = sum(is_below(path, (os.path.join(root, b""),)) for path in paths)
        is_missing = not os.path.exists(root)
        if lost:
            raise DatasetError(
                f"{name} {'does not exist' if is_missing else 'has no image'}, and {target} has "
                f"{lost:,} of its images, so nothing was changed; check that the disk is mounted; "
                "to keep these images, leave the folder out; to remove them, repeat the command "
                "with --allow-empty."
            )
        if is_missing:
            raise DatasetError(f"{name} does not exist; give an existing folder of images.")
