"""Fine-tuning the network of an index that exists: its images are encoded again, in one commit.

The new network, features, codec and codes are made in a working directory, as a build makes them,
and continue there after a kill. The rows of the index get them all at once; ids, attributes and
paths stay. What others change meanwhile is found out at the end.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from itertools import compress
from operator import not_
from typing import TYPE_CHECKING, Any

from hyperpq.datasets.file_source import file_exists, for_each
from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.errors import (
    BackboneError,
    CorruptIndexError,
    DatasetError,
    InvalidInputError,
    StoreError,
)
from hyperpq.images.build import stages
from hyperpq.images.build.finetune_stage import (
    FinetuneFiles,
    check_tunable,
    finetune_network,
)
from hyperpq.images.build.options import BuildOptions, as_finetune
from hyperpq.images.build.plan import Plan
from hyperpq.images.build.state import BuildState
from hyperpq.images.changes import entries
from hyperpq.images.finetuned_rows import FinetunedRows
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.metadata import ImageMetadata, describe_finetuning
from hyperpq.index.learning import product_metric_of
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store import IndexStore, find_place, recover_directory
from hyperpq.store.lock import writer_lock
from hyperpq.store.place import FINETUNING
from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.training.presets import END_TO_END, PRESETS
from hyperpq.utils.devices import first_device
from hyperpq.utils.files import make_folder
from hyperpq.utils.imports import need_torch
from hyperpq.utils.locations import is_absolute

if TYPE_CHECKING:
    from pathlib import Path

    from hyperpq.backbones.base import Backbone
    from hyperpq.images.decoders import WorkersLike


@dataclass
class FinetuneReport:
    """What fine-tuning the network of an index did.

    Attributes
    ----------
    images : int
        Number of images in the index.
    kept : int
        Number of the round that was kept; 0 if none was better, and the index is as it was.
    outcome : str
        The same, for people.
    record : dict
        What was measured, as `training.FinetuneResult.to_dict`.
    seconds : dict of str to float
        Duration of each phase.
    """

    images: int
    kept: int
    outcome: str
    record: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


def finetuning_directory(path: str | os.PathLike[str]) -> Path:
    """Directory of an unfinished `finetune_index` of the index ``path``, while there is one.

    Raises
    ------
    StoreError
        If the system refuses to look there.
    """
    return find_place(path).working_directory(FINETUNING)


def finetune_index(
    path: str | os.PathLike[str],
    settings: FinetuneSettings | float | None = None,
    *,
    backbone: Backbone | str | None = None,
    device: str = "auto",
    train_size: int | None = None,
    workers: WorkersLike = 0,
    resume: bool = False,
    restart: bool = False,
    progress: ProgressLike = None,
) -> tuple[ImageIndex, FinetuneReport]:
    """Fine-tune the network of an index on its images, and encode these again, without labels.

    The network starts from the weights that it has in the index. Its codec is learned again, too.
    Until the last step, which is one commit, the index is as it was, and can be searched.

    Parameters
    ----------
    path : path-like
        Directory of an index of images.
    settings : FinetuneSettings or float, optional
        Settings of fine-tuning, or only a number of minutes.
    backbone, workers, progress
        As in `build_index`.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; of several the first.
    train_size : int, optional
        Largest number of images to learn from; as the index was built by default.
    resume : bool
        Whether to continue an interrupted call; if there is none, a new one starts.
    restart : bool
        Whether to start again where a call was interrupted.

    Returns
    -------
    index : ImageIndex
    report : FinetuneReport

    Raises
    ------
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    InvalidInputError
        If there are too few images, or a value is not valid.
    BackboneError
        If the network cannot be fine-tuned.
    DatasetError
        If images of the index cannot be read: they would have no features of the tuned network.
    StoreError
        If a call was interrupted and neither ``resume`` nor ``restart`` is given, or the system
        refuses to write.
    """
    images = ImageIndex.open(path, device=first_device(device), backbone=backbone)
    report = finetune_images(
        images,
        settings,
        train_size=train_size,
        workers=workers,
        resume=resume,
        restart=restart,
        progress=progress,
    )
    return images, report


def finetune_images(
    images: ImageIndex,
    settings: FinetuneSettings | float | None = None,
    *,
    train_size: int | None = None,
    workers: WorkersLike = 0,
    resume: bool = False,
    restart: bool = False,
    progress: ProgressLike = None,
) -> FinetuneReport:
    """Fine-tune the network of an index that is open; see `finetune_index`."""
    need_torch("networks that are fine-tuned")
    images.index.collection.check_writable()
    if images.index.path is None:
        raise InvalidInputError("the index is in memory; expected one in a directory; save it.")
    shown = as_progress(progress)
    options = _options(images, as_finetune(settings) or FinetuneSettings(), train_size)
    place = find_place(images.index.path)
    recover_directory(place.path)
    state = BuildState(place.working_directory(FINETUNING))
    state.clean_up()
    if not resume and _is_stored(images, state):
        # The call that was interrupted had nothing left to do.
        state.discard()
    begun = state.exists()
    if begun and not (resume or restart):
        raise StoreError(
            f"{state.path} is an interrupted fine-tuning; continue it with --resume, or start "
            "again with --restart."
        )
    make_folder(state.path)
    with writer_lock(state.path):
        if restart:
            state.restart()
        try:
            with shown.phase("load", None, ""):
                network = images.backbone
            check_tunable(network)
            build = stages.Build(
                roots=[],
                place=place.path,
                state=state,
                options=options,
                network=network,
                device=images.index.device,
                workers=workers,
                progress=shown,
            )
            report = _run(images, build)
        except (BackboneError, DatasetError, InvalidInputError):
            # There is nothing that a later call could use.
            if not begun and not FinetuneFiles.of(state).is_begun():
                state.discard()
            raise
    report.seconds = dict(shown.seconds)
    return report


def _options(
    images: ImageIndex, settings: FinetuneSettings, train_size: int | None
) -> BuildOptions:
    """The options by which the index would be built anew, with its present codec's settings."""
    index, stored = images.index, ImageMetadata.from_index(images.index.metadata)
    codec = index.codec
    assert stored is not None and codec is not None  # an index of images that is open
    own = {"bits": index.M * index.nbits, "objective": index.objective}
    built_by = stored.options.get("recipe")
    if isinstance(built_by, str):
        own["recipe"] = _present_recipe(built_by, codec.recipe.get("name"), index.objective)
    try:
        options = BuildOptions.from_stored({**stored.options, **own, "score": None})
    except (InvalidInputError, TypeError) as error:
        raise CorruptIndexError(
            f"{index.path} holds options of the build that are not valid: {error}"
        ) from error
    kept = index.view().rows.feature_codec
    return replace(
        options,
        metric=product_metric_of(codec.config) or index.metric,
        backbone=images.backbone_identity["name"],
        features="none" if kept is None else kept.kind,
        finetune=settings,
        # All images are encoded again, by a network that int8 would not fit.
        precision="float32" if options.precision == "int8" else options.precision,
        train_size=options.train_size if train_size is None else train_size,
    )


def _present_recipe(built_by: str, learned_by: object, objective: str) -> str:
    """The preset by which the codec is learned again.

    Parameters
    ----------
    built_by : str
        The preset of the build.
    learned_by : object
        Name of the recipe that the codec has learned by since then, if it is known.
    objective : str
        Objective of the codec, which may no longer be that of the preset.
    """
    known = (*PRESETS, END_TO_END)
    name = learned_by if isinstance(learned_by, str) and learned_by in known else built_by
    if name == END_TO_END and objective != "semantic":
        return "paper"  # which has the same losses, on features alone
    if name == "balanced" and objective != "balanced":
        return "default"
    return name


def _run(images: ImageIndex, build: stages.Build) -> FinetuneReport:
    """All steps, once the working directory is locked."""
    state = build.state
    files = FinetuneFiles.of(state)
    if not _is_stored(images, state):
        listed = _plan(images, build).files
        tuned = finetune_network(build, listed)
        record = files.read_record()
        assert record is not None  # the stage is done
        if record["kept"]:
            index = stages.new_index(tuned)
            sample = stages.sample_for(tuned, index, listed)
            again = stages.train_index(tuned, index, sample)
            stages.encode_images(tuned, again, listed, sample)
            encoded = FinetunedRows(again, tuned, record)
            encoded.catch_up(images)
            encoded.make_cells(images.index.nlist)
            with build.progress.phase("save", None, ""):
                images.index.collection.replace_vectors(encoded)
                images.index.collection.store_recall()
    record = files.read_record()
    assert record is not None  # the stage is done
    if state.trace.exists():
        images.index.collection.write_report(state.trace.name, state.trace.read_bytes())
    state.discard()
    return FinetuneReport(len(images), record["kept"], describe_finetuning(record), record)


def _is_stored(images: ImageIndex, state: BuildState) -> bool:
    """Whether an interrupted call had already changed the index."""
    if not IndexStore.exists(state.index):
        return False
    made = ImageMetadata.from_index(IndexStore.open(state.index).settings.get("metadata", {}))
    identity = images.backbone_identity
    return made is not None and made.backbone.get("weights_hash") == identity.get("weights_hash")


def _plan(images: ImageIndex, build: stages.Build) -> Plan:
    """The images of the index, which stay the same when an interrupted call continues.

    Raises
    ------
    DatasetError
        If the files of some are gone.
    """
    settings = {
        "weights": build.network.weights_hash,
        "options": build.options.to_stored(),
    }
    try:
        plan = build.state.read_plan(settings)
    except InvalidInputError:
        raise InvalidInputError(
            f"{build.state.path} is an interrupted fine-tuning with other settings, or of another "
            "index; repeat these, or start again with --restart."
        ) from None
    if plan is not None:
        return plan
    with build.progress.phase("list", len(images)) as phase:
        rows = sorted(entries(images.index.collection, phase))
        files = [ImageFile(path, size, mtime) for path, (size, mtime), _ in rows]
    paths = [file.path for file in files]
    gone = [*compress(paths, map(not_, for_each(_has_file, paths)))]
    if gone:
        raise DatasetError(
            f"{len(gone):,} of {len(files):,} images of {images.index.path} have no file now, "
            f"such as {os.fsdecode(gone[0])}; expected all files, as features of a tuned network "
            "are made from them; bring them back, or remove these images from the index: hyperpq "
            "forget --missing, or hyperpq remove for images that were added without a file."
        )
    return build.state.write_plan(settings, files, Listing())


def _has_file(path: bytes) -> bool:
    is_there = os.path.isfile(path) or (not os.path.isdir(path) and file_exists(path))
    return is_absolute(path) and is_there
