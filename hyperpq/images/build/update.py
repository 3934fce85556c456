"""`update_index`: bring an index up to date with its folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.images.build.options import FIXED_OPTIONS, BuildChoices, BuildOptions, BuildReport
from hyperpq.images.build.stages import list_for_build
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.listing import PathLike, as_paths
from hyperpq.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hyperpq.backbones.base import Backbone


def update_index(
    roots: PathLike | Sequence[PathLike],
    path: str | os.PathLike[str],
    *,
    remove_missing: bool = True,
    backbone: Backbone | str | None = None,
    device: str = "auto",
    workers: int = 0,
    progress: Progress | None = None,
    **options: Unpack[BuildChoices],
) -> tuple[ImageIndex, BuildReport]:
    """Add the new and changed images below some folders to an existing index.

    Parameters
    ----------
    roots, path, backbone, device, workers, progress, **options
        As in `build_index`.
    remove_missing : bool
        Whether to remove images of the index that are no longer in the folders.

    Returns
    -------
    index : ImageIndex
    report : BuildReport

    Raises
    ------
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    DatasetError
        If there is no image.
    InvalidInputError
        If the index was built with other options.
    StoreError
        If the system refuses to write.
    """
    target, roots = Path(os.path.abspath(path)), as_paths(roots)
    progress = progress or SilentProgress()
    images = ImageIndex.open(target, device=device, backbone=backbone)
    try:
        built = BuildOptions.from_stored(images.metadata.options)
    except InvalidInputError as error:
        raise CorruptIndexError(
            f"{target / 'manifest.json'} holds options of the build that are not valid: {error}"
        ) from error
    for name, value in sorted(options.items()):
        old = getattr(built, name)
        if name in FIXED_OPTIONS and value != old:
            raise InvalidInputError(
                f"{name.replace('_', '-')} is {value}; {target} was built with "
                f"{'that of the recipe' if old is None else old}; leave the option out, or build "
                "anew with --overwrite."
            )
    chosen = replace(built, **options)
    images.max_megapixels = chosen.max_megapixels
    files, skipped = list_for_build(roots, target, chosen, progress)
    update = images.update(
        files,
        remove_below=roots if remove_missing else (),
        skipped=skipped,
        workers=workers,
        progress=progress,
    )
    return images, BuildReport(
        len(images), update.added, update.removed, update.skipped, dict(progress.seconds)
    )
