"""`build_index`: from folders of images to an index directory, in stages that survive a kill.

Everything is made in ``INDEX.building`` beside the index and takes its place when it is whole, so
an index that is there is always complete. The stages are: plan (the frozen list of images),
sample (features and views of the training images, in chunks), training (a checkpoint each epoch),
encoding (a shard for each group of the plan). Each goes on where it was, with the same pieces, and
so ends with the same bytes as an undisturbed build.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpq.images.build.state import discard, trash
from hyperpq.images.build.options import FIXED, METADATA_KEY, BuildOptions, BuildReport
from hyperpq.images.build.pipeline import FINISHED, SETTINGS, Build, list_for_build, no_image
from hyperpq.errors import (
    BackboneError,
    DatasetError,
    InvalidInputError,
    MissingDependencyError,
    StoreError,
)
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.listing import PathLike, as_paths
from hyperpq.progress import Progress, SilentProgress
from hyperpq.store import recover_directory
from hyperpq.utils.files import os_errors, writer_lock

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone


def build_index(
    roots: Sequence[PathLike],
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    backbone: Backbone | str | None = None,
    **options: Any,
) -> tuple[ImageIndex, BuildReport]:
    """Build an index of all images below some folders, or bring one up to date.

    An index that is there is updated: new and changed images are added, those that are gone from
    the folders are forgotten, nothing is encoded twice.

    Parameters
    ----------
    roots : sequence of path-like
        Folders or images.
    path : path-like
        Directory of the index.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
    workers : int
        Decoding threads; 0 takes one a core.
    resume : bool
        Go on with a build that was interrupted; if there is none, simply start.
    overwrite : bool
        Replace an index that is there, once the new one is whole.
    progress : Progress, optional
        Where to report.
    backbone : Backbone or str, optional
        A loaded network, or the name of one.
    **options
        Other fields of `BuildOptions`. An index that is there keeps those it was built with: to
        ask for others is an error.

    Returns
    -------
    index : ImageIndex
    report : BuildReport

    Raises
    ------
    DatasetError
        No image there, or none that can be read.
    StoreError
        The place is taken, an interrupted build is in the way, or the disk refuses.
    """
    target = Path(os.path.abspath(path))
    work = working_directory(target)
    loaded = backbone if not isinstance(backbone, str) else None
    name = loaded.name if loaded else backbone
    named: dict[str, Any] = {} if name is None else {"backbone": name}
    wished = BuildOptions(**options, **named)
    recover_directory(target)
    shutil.rmtree(trash(work), ignore_errors=True)
    if (work / FINISHED).exists() and not (work / "index").exists():
        discard(work)
        overwrite = overwrite and not resume
    is_index = (target / "manifest.json").exists()
    if is_index and not overwrite and not work.exists():
        return update_index(
            roots,
            target,
            device=device,
            workers=workers,
            progress=progress,
            backbone=backbone,
            **options,
        )
    with os_errors("look into", target):
        if target.exists() and not is_index and (target.is_file() or any(target.iterdir())):
            what = "file" if target.is_file() else "folder with other files"
            raise StoreError(f"{target} is a {what}; choose another --index directory.")
    begun = work.exists()
    with os_errors("create", work):
        work.mkdir(parents=True, exist_ok=True)
    with writer_lock(work):
        if begun and not resume:
            if not overwrite:
                raise StoreError(
                    f"{work} is an interrupted build; "
                    "go on with --resume or start anew with --overwrite."
                )
            (work / SETTINGS).unlink(missing_ok=True)
        build = Build(
            work, target, as_paths(roots), wished, device, workers, progress or SilentProgress()
        )
        try:
            return build.run(loaded)
        except (BackboneError, DatasetError, InvalidInputError, MissingDependencyError):
            # Nothing that a resumed build could use.
            if not begun:
                discard(work)
            raise


def working_directory(path: str | os.PathLike[str]) -> Path:
    """Where the build of an index is under way; it is there while that is unfinished."""
    target = Path(os.path.abspath(path))
    return target.with_name(target.name + ".building")


def update_index(
    roots: Sequence[PathLike],
    path: str | os.PathLike[str],
    *,
    forget: bool = True,
    device: str = "auto",
    workers: int = 0,
    progress: Progress | None = None,
    backbone: Backbone | str | None = None,
    **options: Any,
) -> tuple[ImageIndex, BuildReport]:
    """Bring an index that is there up to date with some folders.

    Parameters
    ----------
    forget : bool
        Whether images of the index that are gone from the folders are removed.
    roots, path, device, workers, progress, backbone, **options
        As in `build_index`.
    """
    target, roots = Path(os.path.abspath(path)), as_paths(roots)
    progress = progress or SilentProgress()
    images = ImageIndex.open(target, device=device, backbone=backbone)
    built = BuildOptions.from_stored(images.index.metadata[METADATA_KEY]["options"])
    for name in sorted(FIXED & options.keys()):
        old = getattr(built, name)
        if options[name] != old:
            raise InvalidInputError(
                f"{target} was built with {name.replace('_', '-')} "
                f"{'of the recipe' if old is None else old}, not {options[name]}; "
                "leave the option out, or build anew with --overwrite."
            )
    chosen = replace(built, **options)
    images.max_megapixels = chosen.max_megapixels
    files, skipped = list_for_build(roots, target, chosen, progress)
    if not files:
        raise no_image(roots)
    update = images.update(
        files,
        forget_below=roots if forget else (),
        skipped=skipped,
        workers=workers,
        progress=progress,
    )
    report = BuildReport(len(images), update.added, update.forgotten, update.skipped)
    report.seconds = dict(getattr(progress, "seconds", {}))
    return images, report
