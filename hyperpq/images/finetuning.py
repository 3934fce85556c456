"""Fine-tuning the network of an index that exists: its images are encoded again, in one commit.

The new network, features, codec and codes are made in a working directory, as a build makes them,
and continue there after a kill. The rows of the index get them all at once; ids, attributes and
paths stay. What others change meanwhile is found out at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
from hyperpq.images.build.state import BuildState
from hyperpq.images.changes import entries, entries_of
from hyperpq.images.extract import extract_features
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.metadata import ImageMetadata, describe_finetuning
from hyperpq.images.updater import Updater
from hyperpq.index.learning import product_metric_of
from hyperpq.index.path_map import KEY
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store import IndexStore, Rows, find_place, live_batches, recover_directory
from hyperpq.store.lock import writer_lock
from hyperpq.store.place import FINETUNING
from hyperpq.store.segments import MAX_COMPACTED_FEATURES, MAX_COMPACTED_ROWS
from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.utils.devices import first_device
from hyperpq.utils.files import make_folder

if TYPE_CHECKING:
    from pathlib import Path

    from hyperpq.backbones.base import Backbone
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.images.decoders import WorkersLike
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.training_record import TrainingRecord
    from hyperpq.index.view import RowView

# Images that others add while those before them are encoded, in the last attempts under the lock.
_FEW, _ATTEMPTS = 64, 3


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
    try:
        options = BuildOptions.from_stored({**stored.options, **own, "score": None})
        metric = product_metric_of(codec.config) or index.metric
        kept = index.view().rows.feature_codec
        return replace(
            options,
            metric=metric,
            backbone=images.backbone_identity["name"],
            features="none" if kept is None else kept.kind,
            finetune=settings,
            train_size=options.train_size if train_size is None else train_size,
        )
    except (InvalidInputError, TypeError) as error:
        raise CorruptIndexError(
            f"{index.path} holds options of the build that are not valid: {error}"
        ) from error


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
            sample = stages.sample_features(tuned, listed)
            again = stages.train_index(tuned, index, sample)
            stages.encode_images(tuned, again, listed, sample)
            encoded = _Encoded(again, tuned, record)
            encoded.catch_up(images)
            with build.progress.phase("save", None, ""):
                images.index.collection.replace_vectors(encoded)
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


def _plan(images: ImageIndex, build: stages.Build) -> Listing:
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
    plan = Listing()
    with build.progress.phase("list", len(images)) as phase:
        rows = sorted(entries(images.index.collection, phase))
        plan.files = [ImageFile(path, size, mtime) for path, (size, mtime), _ in rows]
    gone = [file.path for file in plan.files if not _has_file(file.path)]
    if gone:
        raise DatasetError(
            f"{len(gone):,} of {len(plan.files):,} images of {images.index.path} have no file now, "
            f"such as {os.fsdecode(gone[0])}; expected all files, as features of a tuned network "
            "are made from them; bring them back, or remove these images from the index: hyperpq "
            "forget --missing, or hyperpq remove for images that were added without a file."
        )
    build.state.write_plan(settings, plan)
    return plan


def _has_file(path: bytes) -> bool:
    return os.path.isabs(path) and os.path.isfile(path)


class _Encoded:
    """The images of an index by a tuned network; see `Collection.replace_vectors`.

    Parameters
    ----------
    made : ImageIndex
        What was made of them in the working directory.
    build : Build
        How it was made.
    record : dict
        What was measured when the network was fine-tuned.
    """

    def __init__(self, made: ImageIndex, build: stages.Build, record: dict[str, Any]) -> None:
        assert made.index.collection.held is not None  # it is trained
        self.codec: IndexCodec = made.index.collection.held
        self.training: TrainingRecord | None = made.index.training
        self.tuned: TunedWeights | None = build.network.tuned
        self._made, self._build, self._record = made, build, record
        self._show_made()

    def _show_made(self) -> None:
        self._rows = self._made.index.view().rows
        # An image that was changed meanwhile may be there twice, with another size or time.
        self._ids = {(path, state): id for path, state, id in entries(self._made.index.collection)}

    def catch_up(self, images: ImageIndex) -> None:
        """Encode what others have added meanwhile; a few images at the end may be left."""
        for _ in range(_ATTEMPTS):
            images.index.refresh()
            missing = self._missing(images.index.view().rows)
            self._add(missing)
            if len(missing) <= _FEW:
                return

    def _missing(self, rows: RowView) -> list[ImageFile]:
        found = (
            ImageFile(path, *state)
            for path, state, _ in entries_of(rows, self._build.place)
            if (path, state) not in self._ids
        )
        return sorted(found, key=lambda file: file.path)

    def _add(self, files: list[ImageFile]) -> None:
        """Encode images, all of which must be readable."""
        if not files:
            return
        build = self._build
        with build.progress.phase("encode", len(files)) as phase:
            paths = [file.path for file in files]
            features = extract_features(paths, build.network, build.read_options, phase)
        if features.skipped:
            row, reason = features.skipped[0]
            name = os.fsdecode(files[row].path)
            raise DatasetError(
                f"{name} cannot be read ({reason}), and the index has it; expected all images, as "
                "features of a tuned network are made from them; bring it back, or remove it from "
                "the index with hyperpq forget, and repeat the command with --resume."
            )
        Updater(self._made).add_features(files, features.plain, features.sizes, features.hashes)
        self._show_made()

    def metadata(self, former: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of the index with the tuned network."""
        stored = former[KEY]
        settings = as_finetune(self._build.options.finetune)
        assert settings is not None  # it was fine-tuned
        return {
            **former,
            KEY: {
                **stored,
                "backbone": self._build.network.identity(),
                "options": {**stored.get("options", {}), "finetune": settings.to_dict()},
                "finetuned": self._record,
            },
        }

    def rows(self, former: RowView) -> Iterator[Rows]:
        """The rows of the index with codes and features of the tuned network."""
        self._add(self._missing(former))
        kept = self._rows.feature_codec
        most = MAX_COMPACTED_ROWS
        if kept is not None:
            most = max(1, MAX_COMPACTED_FEATURES // kept.size)
        for rows in live_batches(former.segments, most, features=False):
            ids = np.array([self._ids[key] for key in self._keys(rows, former)], np.int64)
            features = None if kept is None else self._features(ids, kept.size)
            codes = self._rows.codes_of(ids)
            yield Rows(codes, rows.ids, rows.attributes, rows.path_strings, features)

    @staticmethod
    def _keys(rows: Rows, former: RowView) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Path, size and time of each row, as `entries` has them."""
        times = np.asarray(rows.attribute("mtime")).view(np.int64).tolist()
        sizes = np.asarray(rows.attribute("size")).tolist()
        for path, size, time in zip(rows.paths or (), sizes, times, strict=True):
            yield former.path_map.shown(path), (size, time)

    def _features(self, ids: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        out = np.empty((len(ids), size), np.uint8)
        for features, rows, positions in self._rows.features_at(ids):
            out[positions] = features[rows]
        return out
