"""`build_index`: from folders of images to an index directory, in stages that survive a kill.

Everything is made in ``INDEX.building`` beside the index and replaces the index when it is
complete, so that an existing index can always be used. The stages are the list of images, the
sample (features and views of the training images), the training (with a checkpoint each epoch) and
the encoding (with a commit for each segment). A stage continues where it was interrupted, with the
same batches, and so an interrupted build ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpq.backbones import load_backbone
from hyperpq.errors import (
    BackboneError,
    DatasetError,
    InvalidInputError,
    MissingDependencyError,
    StoreError,
)
from hyperpq.images import skipped as skipped_files
from hyperpq.images.build import stages
from hyperpq.images.build.options import BuildChoices, BuildOptions, BuildReport
from hyperpq.images.build.state import BuildState
from hyperpq.images.build.update import update_index
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.listing import PathLike, as_paths
from hyperpq.progress import Progress, SilentProgress
from hyperpq.store import IndexStore, recover_directory, replace_directory
from hyperpq.store.lock import writer_lock
from hyperpq.utils.files import os_errors

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hyperpq.backbones.base import Backbone


def build_index(
    roots: PathLike | Sequence[PathLike],
    path: str | os.PathLike[str],
    *,
    backbone: Backbone | str | None = None,
    device: str = "auto",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[BuildChoices],
) -> tuple[ImageIndex, BuildReport]:
    """Build an index of all images below some folders, or bring an index up to date.

    An existing index is updated: new and changed images are added, images that are no longer in
    the folders are removed, and no image is encoded twice.

    Parameters
    ----------
    roots : path-like or sequence of path-like
        Folders or images.
    path : path-like
        Directory of the index.
    backbone : Backbone or str, optional
        The network, or its name; ``lite0`` for a new index by default.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
    workers : int
        Number of decoding threads; 0 means one per core.
    resume : bool
        Whether to continue an interrupted build; if there is none, a new build starts.
    overwrite : bool
        Whether to replace an existing index, once the new one is complete.
    progress : Progress, optional
        Where to report progress.
    **options
        Other fields of `BuildOptions`. An existing index keeps the options that it was built with,
        and it is an error to ask for others.

    Returns
    -------
    index : ImageIndex
    report : BuildReport

    Raises
    ------
    DatasetError
        If there is no image, or none can be read.
    InvalidInputError, BackboneError, MissingDependencyError
        If an option is not valid, or the network cannot be used.
    StoreError
        If ``path`` is in use for something else, there is an interrupted build and neither
        ``resume`` nor ``overwrite`` is given, or the system refuses to write.
    """
    target = Path(os.path.abspath(path))
    state, chosen = BuildState(target), BuildOptions(**options)
    if backbone is not None:
        name = backbone if isinstance(backbone, str) else backbone.name
        chosen = replace(chosen, backbone=name)
    recover_directory(target)
    if state.clean_up():
        # The interrupted build that this call resumes was complete.
        overwrite = overwrite and not resume
    is_index = IndexStore.exists(target)
    if is_index and not overwrite and not state.exists():
        return update_index(
            roots,
            target,
            backbone=backbone,
            device=device,
            workers=workers,
            progress=progress,
            **options,
        )
    _check_target(target, is_index)
    begun = state.exists()
    with os_errors("create", state.path):
        state.path.mkdir(parents=True, exist_ok=True)
    with writer_lock(state.path):
        if begun and not resume:
            if not overwrite:
                raise StoreError(
                    f"{state.path} is an interrupted build; continue it with --resume, or start "
                    "again with --overwrite."
                )
            state.restart()
        try:
            # A network that cannot be loaded is the likeliest error, so this is the first step.
            if backbone is None or isinstance(backbone, str):
                backbone = load_backbone(chosen.backbone, device=device)
            build = stages.Build(
                as_paths(roots),
                target,
                chosen,
                backbone,
                device,
                workers,
                progress or SilentProgress(),
            )
            return _run(build)
        except (BackboneError, DatasetError, InvalidInputError, MissingDependencyError):
            # There is nothing that a resumed build could use.
            if not begun:
                state.discard()
            raise


def _check_target(target: Path, is_index: bool) -> None:
    """Raise `StoreError` unless an index can be built at ``target``."""
    with os_errors("look into", target):
        taken = target.exists() and (target.is_file() or any(target.iterdir()))
    if taken and not is_index:
        what = "file" if target.is_file() else "folder with other files"
        raise StoreError(f"{target} is a {what}; expected another directory for the index.")


def _run(build: stages.Build) -> tuple[ImageIndex, BuildReport]:
    """All stages of a build."""
    index = stages.new_index(build)
    files, skipped = stages.read_or_list(build)
    if index.is_trained:
        sample = stages.Sample.empty(build.network.d)
    else:
        sample = stages.sample_features(build, files)
    images = stages.train_index(build, index, sample)
    skipped |= stages.encode_images(build, images, files, sample)
    _publish(build, images, skipped)
    done = ImageIndex.open(build.target, device=build.device, backbone=build.network)
    return done, BuildReport(len(done), len(done), 0, skipped, dict(build.progress.seconds))


def _publish(build: stages.Build, images: ImageIndex, skipped: dict[bytes, str]) -> None:
    """Complete the index in the working directory and move it to its place."""
    collection, state = images.index.collection, build.state
    # A kill may have left a file that the commit of a later segment would have removed.
    collection.remove_leftovers()
    collection.write_report(skipped_files.NAME, skipped_files.to_csv(skipped))
    if state.trace.exists():
        collection.write_report(state.trace.name, state.trace.read_bytes())
    # After the move, a kill must not leave what looks like a build without an index.
    state.finish()
    replace_directory(state.index, build.target)
    state.discard()
