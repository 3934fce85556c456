"""The stages of a build: list, sample, train, encode; each continues where it was interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.augment import AUGMENTATIONS
from hyperpq.datasets.listing import ImageFile, RootOptions
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images.build.end_to_end import is_end_to_end, learned_index
from hyperpq.images.build.finetune_stage import FinetuneFiles, training_rows
from hyperpq.images.build.options import BuildOptions, subquantizers
from hyperpq.images.build.path_list import PathList
from hyperpq.images.build.state import BuildState
from hyperpq.images.build.writer import BackgroundWriter
from hyperpq.images.decoders import WorkersLike
from hyperpq.images.extract import Features, ReadOptions, stream_groups
from hyperpq.images.image_index import ImageIndex
from hyperpq.images.metadata import ImageMetadata
from hyperpq.images.roots import with_listed
from hyperpq.images.updater import SEGMENT_SIZE, Updater
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.index.learning import product_metric_of
from hyperpq.index.path_map import with_roots
from hyperpq.progress import Phase, Progress
from hyperpq.store import IndexStore
from hyperpq.training.presets import get_recipe
from hyperpq.training.recipe import Recipe

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone

SAMPLE_BATCH_SIZE = 256
"""Training images whose features are written at once; a kill loses at most these."""


@dataclass(frozen=True)
class Build:
    """A build: what it is asked for, and what it works with.

    Attributes
    ----------
    roots : list of bytes
        Folders or images, as absolute paths; none with a list of paths.
    place : Path
        Directory of the finished index, without links.
    state : BuildState
        The working directory.
    options : BuildOptions
        What determines the content of the index.
    network : Backbone
        The network.
    device : str
        Device of the codec.
    workers : int or str
        How images are decoded, see `WorkersLike`.
    progress : Progress
        Where to report progress.
    allow_empty : bool
        Whether a root may be missing.
    listed : PathList, optional
        The list of paths.
    """

    roots: list[bytes]
    place: Path
    state: BuildState
    options: BuildOptions
    network: Backbone
    device: str
    workers: WorkersLike
    progress: Progress
    allow_empty: bool = False
    listed: PathList | None = None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the training."""
        options = self.options
        recipe = get_recipe(options.recipe, options.bits, objective=options.objective)
        if recipe.is_semantic:
            left = max(0, recipe.views.n_views - (options.n_views or 0))
            recipe = recipe.replace(transferred_views=left)
        return recipe if options.epochs is None else recipe.replace(epochs=options.epochs)

    @property
    def read_options(self) -> ReadOptions:
        """How images are read that no views are made of."""
        return ReadOptions(self.workers, self.options.max_megapixels, hashes=True)


@dataclass(frozen=True)
class Sample:
    """Features of the training images; their rows are positions in the list of images.

    Attributes
    ----------
    viewed : Features
        Of images with augmented views.
    others : Features
        Of images without views.
    """

    viewed: Features
    others: Features

    @classmethod
    def empty(cls, d: int) -> Sample:
        """No training images, where the codec is that of another index."""
        return cls(Features.empty(d), Features.empty(d))


def new_index(build: Build) -> HiHPQIndex:
    """An empty index in memory: not trained, or with a codec that is there already.

    That is the codec of another index, or the one that has learned with the network.

    Raises
    ------
    InvalidInputError, BackboneError
        If the other index does not fit the network of this build.
    """
    options, network = build.options, build.network
    learned = FinetuneFiles.of(build.state)
    if is_end_to_end(options) and learned.read_record() is not None:
        return learned_index(build, learned.codec)
    if options.codec is None:
        M = subquantizers(options.bits)
        return HiHPQIndex(
            network.d,
            M,
            metric=options.metric or "l1",
            objective=options.objective,
            device=build.device,
            features=options.features,
        )
    other = HiHPQIndex.load(options.codec, device=build.device)
    metadata = ImageMetadata.from_index(other.metadata)
    if metadata is not None:
        network.check_matches(metadata.backbone)
    if other.d != network.d:
        raise InvalidInputError(
            f"codec is that of {options.codec}, for features of width {other.d}; expected width "
            f"{network.d}, that of backbone {network.name!r}."
        )
    return other.with_bits(options.bits, metric=options.metric, features=options.features)


def sample_for(build: Build, index: HiHPQIndex, files: Sequence[ImageFile]) -> Sample:
    """`sample_features` for an index that is to learn from them, and none for another."""
    return Sample.empty(build.network.d) if index.is_trained else sample_features(build, files)


def sample_features(build: Build, files: Sequence[ImageFile]) -> Sample:
    """Features of randomly chosen training images, and of views of the first of them.

    Raises
    ------
    DatasetError
        If none of the images can be read.
    """
    recipe, options, network = build.recipe, build.options, build.network
    n_views = (options.n_views or 0) if recipe.is_semantic else 0
    size = min(options.train_size, len(files))
    n_viewed = min(options.view_size, size) if n_views else 0
    if n_views and not recipe.graph.graph_neighbours:
        # Without a graph, only images with views have a positive.
        size = n_viewed = max(n_viewed, 1)
    chosen = training_rows(options, len(files), size)
    with_views = replace(
        build.read_options,
        augmentation=AUGMENTATIONS[recipe.views.augmentation],
        n_views=n_views,
        seed=options.seed,
        views_on_device=options.views == "device",
    )
    with build.progress.phase("features", size) as phase:
        viewed = _sample_batches(build, "views", files, chosen[:n_viewed], with_views, phase)
        others = _sample_batches(
            build, "plain", files, chosen[n_viewed:], build.read_options, phase
        )
    sample = Sample(
        Features.concatenate([Features.empty(network.d, n_views), *viewed]),
        Features.concatenate([Features.empty(network.d), *others]),
    )
    if not len(sample.viewed.rows) and not len(sample.others.rows):
        row, reason = (sample.viewed.skipped + sample.others.skipped)[0]
        name = os.fsdecode(files[row].path)
        raise DatasetError(
            f"{name} cannot be read ({reason}) and is the only image; expected images to train on."
            if size == 1
            else f"none of {size} images can be read, such as {name} ({reason}); expected images "
            "to train on."
        )
    return sample


def _sample_batches(
    build: Build,
    folder: str,
    files: Sequence[ImageFile],
    chosen: NDArray[np.int64],
    options: ReadOptions,
    phase: Phase,
) -> list[Features]:
    """Features of chosen images in batches, each of which is written to the working directory."""
    build.state.make_folder(folder)
    chosen, batches = np.sort(chosen), []
    parts = [
        chosen[start : start + SAMPLE_BATCH_SIZE]
        for start in range(0, len(chosen), SAMPLE_BATCH_SIZE)
    ]
    stored = {number: build.state.read_features(folder, number) for number in range(len(parts))}
    missing = [number for number, batch in stored.items() if batch is None]
    groups = ([files[i].path for i in parts[number]] for number in missing)
    n_missing = sum(len(parts[number]) for number in missing)
    with closing(stream_groups(groups, build.network, options, n_missing, phase)) as new:
        for number, rows in enumerate(parts):
            batch = stored.pop(number)
            if batch is None:
                batch = next(new)
                build.state.write_features(folder, number, batch)
            else:
                phase.advance(len(rows))
            skipped = [(int(rows[i]), reason) for i, reason in batch.skipped]
            unavailable = {int(rows[i]) for i in batch.unavailable}
            batches.append(
                replace(batch, rows=rows[batch.rows], skipped=skipped, unavailable=unavailable)
            )
    return batches


def train_index(build: Build, index: HiHPQIndex, sample: Sample) -> ImageIndex:
    """The trained and empty index in the working directory.

    Parameters
    ----------
    build : Build
        The build.
    index : HiHPQIndex
        An index in memory; it is trained unless it has a codec.
    sample : Sample
        The features to train on.
    """
    state = build.state
    if IndexStore.exists(state.index):
        return ImageIndex(HiHPQIndex.load(state.index, device=build.device), build.network)
    if not index.is_trained:
        n_viewed = len(sample.viewed.rows)
        with build.progress.phase("load", None, ""):
            # PyTorch takes seconds to import.
            import hyperpq.training.train  # noqa: F401
        index.train(
            np.concatenate([sample.viewed.plain, sample.others.plain]),
            sample.viewed.views if n_viewed else None,
            view_rows=np.arange(n_viewed) if n_viewed else None,
            recipe=build.recipe,
            seed=build.options.seed,
            progress=build.progress,
            trace_path=state.trace,
            checkpoint=state.checkpoint,
            resume=True,
        )
    # The path of another index belongs to this machine, and its metric is that of the codec.
    held = index.collection.held
    assert held is not None  # the index of a finished training
    metric = product_metric_of(held.config) or index.metric
    options = replace(build.options, codec=None, metric=metric)
    tuned = FinetuneFiles.of(state).read_record()
    before = ImageMetadata.from_index(index.metadata)
    if tuned is None and before is not None:
        # Of the index whose codec was taken, with its network.
        tuned = before.finetuned
    metadata = ImageMetadata(
        build.network.identity(), options.max_megapixels, options.to_stored(), tuned
    )
    listed = RootOptions(options.include_hidden, tuple(options.exclude))
    roots = with_listed((), dict.fromkeys(build.roots, listed), build.place)
    index.metadata = with_roots(metadata.to_index(), roots)
    index.collection.set_tuned(build.network.tuned)
    shutil.rmtree(state.index, ignore_errors=True)
    index.save(state.index)
    return ImageIndex(index, build.network)


def encode_images(
    build: Build, images: ImageIndex, files: Sequence[ImageFile], sample: Sample
) -> dict[bytes, str]:
    """Encode all listed images, one commit for each segment; returns those that were skipped."""
    known = {
        int(row): (features, i)
        for features in (sample.viewed, sample.others)
        for i, row in enumerate(features.rows)
    }
    unreadable = dict(sample.viewed.skipped + sample.others.skipped)
    build.state.make_folder("skipped")
    skipped: dict[bytes, str] = {}
    segments = [
        range(start, min(start + SEGMENT_SIZE, len(files)))
        for start in range(0, len(files), SEGMENT_SIZE)
    ]
    # The first snapshot is without images, and each segment is one commit after it.
    n_stored = min(_snapshot(images) - 1, len(segments))

    def new_in(rows: range) -> list[int]:
        return [row for row in rows if row not in known and row not in unreadable]

    def store(number: int, features: Features) -> None:
        rows = segments[number]
        new = new_in(rows)
        found = {row: known[row] for row in rows if row in known}
        found |= {new[i]: (features, j) for j, i in enumerate(features.rows)}
        reasons = {row: unreadable[row] for row in rows if row in unreadable}
        reasons |= {new[i]: reason for i, reason in features.skipped}
        here = {files[row].path: reason for row, reason in reasons.items()}
        build.state.write_skipped(number, here)
        skipped.update(here)
        _commit(images, files, found)

    with build.progress.phase("encode", len(files)) as phase, BackgroundWriter() as writer:
        for number in range(n_stored):
            phase.advance(len(segments[number]))
            skipped |= build.state.read_skipped(number)
        groups = ([files[row].path for row in new_in(rows)] for rows in segments[n_stored:])
        n_new = sum(len(rows) for rows in segments[n_stored:]) - len(known) - len(unreadable)
        stream = stream_groups(groups, build.network, build.read_options, n_new, phase)
        with closing(stream):
            for number, features in enumerate(stream, n_stored):
                phase.advance(len(segments[number]) - len(features.rows) - len(features.skipped))
                writer.submit(store, number, features)
    return skipped


def _commit(
    images: ImageIndex,
    files: Sequence[ImageFile],
    found: dict[int, tuple[Features, int]],
) -> None:
    """Add the images in ``found``, position to features and row in these, in one commit."""
    rows = sorted(found)
    plain = np.array(
        [features.plain[i] for features, i in map(found.__getitem__, rows)], np.float32
    )
    sizes = np.array([features.sizes[i] for features, i in map(found.__getitem__, rows)], np.int32)
    hashes = [int(features.hashes[i]) for features, i in map(found.__getitem__, rows)]
    Updater(images).add_features(
        [files[row] for row in rows],
        plain.reshape(len(rows), images.index.d),
        sizes.reshape(len(rows), 2),
        np.array(hashes, np.int64),
    )


def _snapshot(images: ImageIndex) -> int:
    """Number of commits of the index."""
    return images.index.collection.snapshot
