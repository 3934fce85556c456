"""`build_index`: from folders of images to an index directory, in stages that survive a kill.

Everything is made in ``INDEX.building`` beside the index, or in ``INDEX/.building`` where INDEX
cannot be renamed, and replaces the index when it is complete, so that an existing index can always
be used. The stages are the list of images, the sample (features and views of the training images),
the training (with a checkpoint each epoch) and the encoding (with a commit for each segment). A
stage continues where it was interrupted, with the same batches, and so an interrupted build ends
with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hyperpq.backbones import load_backbone
from hyperpq.backbones.base import recorded_precision
from hyperpq.datasets.file_source import may_exist
from hyperpq.datasets.root_faults import missing_root
from hyperpq.errors import (
    BackboneError,
    DatasetError,
    InvalidInputError,
    MissingDependencyError,
    StoreError,
)
from hyperpq.images import skipped as skipped_files
from hyperpq.images.build import stages
from hyperpq.images.build.finetune_stage import (
    FinetuneFiles,
    check_tunable,
    finetune_network,
)
from hyperpq.images.build.listing import read_or_list
from hyperpq.images.build.options import (
    BuildChoices,
    BuildOptions,
    BuildReport,
    ViewMakers,
    check_codec_alone,
)
from hyperpq.images.build.path_list import PathList, check_listable
from hyperpq.images.build.state import BuildState
from hyperpq.images.build.update import update_index
from hyperpq.images.decoders import WorkersLike
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.listing import PathLike, as_roots
from hyperpq.images.metadata import ImageMetadata, describe_finetuning
from hyperpq.images.relearning import MODES, Relearn
from hyperpq.index.cells import as_nlist
from hyperpq.index.directory import kept_tuned
from hyperpq.index.learning import LEARNING
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store import (
    IndexStore,
    check_replaceable,
    find_place,
    recover_directory,
    replace_directory,
)
from hyperpq.store.lock import writer_lock
from hyperpq.utils.devices import first_device
from hyperpq.utils.files import make_folder
from hyperpq.utils.imports import need_torch
from hyperpq.utils.validation import as_choice

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hyperpq.backbones.base import Backbone


def build_index(
    roots: PathLike | Sequence[PathLike] | PathList,
    path: str | os.PathLike[str],
    *,
    backbone: Backbone | str | None = None,
    device: str = "auto",
    workers: WorkersLike = 0,
    resume: bool = False,
    overwrite: bool = False,
    allow_empty: bool = False,
    relearn: Relearn = "auto",
    progress: ProgressLike = None,
    **options: Unpack[BuildChoices],
) -> tuple[ImageIndex, BuildReport]:
    """Build an index of all images below some folders, or bring an index up to date.

    An existing index is updated: new and changed images are added, images that are no longer in
    the folders are removed, and no image is encoded twice. What cannot be read is kept, see
    `update_index`.

    Parameters
    ----------
    roots : path-like, sequence of path-like, or PathList
        Folders or images, or a file with a list of images. An index that is built of a list records
        no folder. It can be built anew, or be added to (`ImageIndex.add`), but not be updated.
    path : path-like
        Directory of the index.
    backbone : Backbone or str, optional
        The network, or its name; ``lite0`` for a new index by default.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``. Several with commas between, such as
        ``cuda:0,cuda:1``, or ``cuda:all``, encode the images of a new index together.
    workers : int or str
        Number of workers that decode images, 0 for one per core; or their kind:
        ``"threads"``, ``"processes"`` or ``"device"`` (the GPU decodes JPEG files), also with
        their number, such as ``"processes:8"``. By default processes read many files for a
        network on a GPU, and threads everything else.
    resume : bool
        Whether to continue an interrupted build; if there is none, a new build starts.
    overwrite : bool
        Whether to replace an existing index, once the new one is complete.
    allow_empty : bool
        Whether a folder may have no images any more, or be gone; see `update_index`.
    relearn : {"auto", "never", "now"}
        Whether the codec of an existing index is learned again, see `update_index`.
    progress : Progress or bool, optional
        Where to report progress.
    **options
        Other fields of `BuildOptions`. An existing index keeps the options that it was built with,
        and it is an error to ask for others; ``codec`` has no effect on it. With ``codec`` nothing
        is trained, and options of the training are an error.

    Returns
    -------
    index : ImageIndex
    report : BuildReport

    Raises
    ------
    DatasetError
        If there is no image, none can be read, or a folder of which an existing index has images
        has none any more.
    InvalidInputError, BackboneError, MissingDependencyError
        If an option is not valid, or the network cannot be used.
    StoreError
        If ``path`` is in use for something else, there is an interrupted build and neither
        ``resume`` nor ``overwrite`` is given, or the system refuses to write.
    """
    listed = roots if isinstance(roots, PathList) else None
    roots, progress = [] if isinstance(roots, PathList) else as_roots(roots), as_progress(progress)
    check_codec_alone(options)
    chosen, relearn = BuildOptions(**options), as_choice(relearn, "relearn", MODES)
    if backbone is not None:
        name = backbone if isinstance(backbone, str) else backbone.name
        chosen = replace(chosen, backbone=name)
        if not isinstance(backbone, str):
            chosen = replace(chosen, precision=backbone.precision)
    # Where an index cannot be put there is nothing to wait for.
    place = find_place(path)
    state = BuildState(place.working_directory(".building"))
    recover_directory(place.path)
    if state.clean_up():
        # The interrupted build that this call resumes was complete.
        overwrite = overwrite and not resume
    is_index = IndexStore.exists(place.path)
    if listed is not None:
        check_listable(options, is_there=is_index and not (overwrite or state.exists()))
    if is_index and not overwrite and not state.exists():
        return update_index(
            roots,
            path,
            backbone=backbone,
            device=first_device(device),
            workers=workers,
            allow_empty=allow_empty,
            relearn=relearn,
            progress=progress,
            **options,
        )
    if not is_index:
        place.check_free()
    check_replaceable(state.index, place.path)
    begun = state.exists()
    if not begun and listed is not None:
        listed.check()
    if not begun and not allow_empty:
        # A wrong path is named before PyTorch is imported.
        for root in roots:
            if not may_exist(root):
                raise missing_root(root)
    if chosen.codec is None:
        need_torch(LEARNING)
    make_folder(state.path)
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
                with progress.phase("load", None, ""):
                    backbone = _load_network(chosen, device, state)
                chosen = replace(chosen, precision=backbone.precision)
            if chosen.views == "auto":
                chosen = replace(chosen, views=_choose_views(backbone, state))
            if chosen.finetune is not None:
                check_tunable(backbone)
            build = stages.Build(
                roots=roots,
                place=place.path,
                state=state,
                options=chosen,
                network=backbone,
                device=first_device(device),
                workers=workers,
                progress=progress,
                allow_empty=allow_empty,
                listed=listed,
            )
            report, backbone = _run(build)
        except (BackboneError, DatasetError, InvalidInputError, MissingDependencyError):
            # There is nothing that a resumed build could use.
            if not begun:
                state.discard()
            raise
    with progress.phase("open", None, ""):
        images = ImageIndex.open(
            os.path.abspath(path), device=first_device(device), backbone=backbone
        )
    return images, report


def _choose_views(backbone: Backbone, state: BuildState) -> ViewMakers:
    """Where views are made; an interrupted build goes on as it began."""
    if (begun := state.read_options()) is not None:
        return BuildOptions.from_stored(begun).views
    return "files" if backbone.device == "cpu" else "device"


def _load_network(options: BuildOptions, device: str, state: BuildState) -> Backbone:
    """The network of a build; an interrupted one goes on in the precision that was chosen then."""
    tuned, precision = None, options.precision
    if options.codec is not None:
        store = IndexStore.open(options.codec)
        tuned = kept_tuned(store)
        metadata = ImageMetadata.from_index(store.settings.get("metadata", {}))
        if precision == "auto" and metadata is not None:
            precision = recorded_precision(metadata.backbone)
    if precision == "auto" and (begun := state.read_options()) is not None:
        precision = BuildOptions.from_stored(begun).precision
    if precision == "auto" and options.finetune is not None:
        precision = "float32"
    return load_backbone(options.backbone, device=device, tuned=tuned, precision=precision)


def _run(build: stages.Build) -> tuple[BuildReport, Backbone]:
    """All stages of a build; the network is that of the index."""
    with build.progress.phase("load", None, ""):
        index = stages.new_index(build)
    plan = read_or_list(build)
    if build.options.finetune is not None:
        build = finetune_network(build, plan.files)
        index = stages.new_index(build)
    sample = stages.sample_for(build, index, plan.files)
    images = stages.train_index(build, index, sample)
    skipped = plan.skipped | stages.encode_images(build, images, plan.files, sample)
    count = len(images)
    tuned = FinetuneFiles.of(build.state).read_record()
    _make_cells(build, images)
    with build.progress.phase("save", None, ""):
        _publish(build, images, skipped)
    report = BuildReport(
        images=count,
        added=count,
        removed=0,
        skipped=skipped,
        seconds=dict(build.progress.seconds),
        other=dict(plan.other),
        finetuned=None if tuned is None else describe_finetuning(tuned),
    )
    return report, build.network


def _make_cells(build: stages.Build, images: ImageIndex) -> None:
    """Group the codes by the cells that were asked for, unless that was done before a kill."""
    cells = build.options.cells
    if cells is None or images.index.nlist == as_nlist(cells, len(images)):
        return
    with build.progress.phase("cells", None, ""):
        images.index.make_cells(cells)


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
    replace_directory(state.index, build.place)
    state.discard()
