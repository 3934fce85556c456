"""The stage of a build in which its network is fine-tuned on the images themselves."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones.registry import load_backbone
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.datasets.listing import ImageFile
from hyperpq.errors import BackboneError, InvalidInputError
from hyperpq.images.build.end_to_end import is_end_to_end, learn_end_to_end, whole_settings
from hyperpq.images.build.options import BuildOptions, as_finetune
from hyperpq.images.build.state import BuildState
from hyperpq.images.training_pixels import TrainingPixels
from hyperpq.progress import duration
from hyperpq.store.manifest_parser import MAX_FILE_BYTES
from hyperpq.training.split import MIN_CHECKED_IMAGES, MIN_TRAINING_IMAGES
from hyperpq.utils.files import atomic_write, fsync_folder
from hyperpq.utils.imports import need_torch

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone
    from hyperpq.images.build.stages import Build
    from hyperpq.training.finetune_settings import FinetuneSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneFiles:
    """What the stage leaves in a working directory.

    Attributes
    ----------
    checkpoint : Path
        What the rounds have reached.
    weights, record : Path
        What fine-tuning changed in the network, if anything, and what was measured, which is
        written last.
    pixels : Path
        Folder of the pixels that it learns from.
    codec : Path
        Folder of the codec, if that has learned with the network.
    """

    checkpoint: Path
    weights: Path
    record: Path
    pixels: Path
    codec: Path

    @classmethod
    def of(cls, state: BuildState) -> FinetuneFiles:
        """Those of the working directory of a build."""
        return cls(
            state.path / "finetune.safetensors",
            state.path / "network.safetensors",
            state.path / "finetuned.json",
            state.path / "pixels",
            state.path / "codec",
        )

    def is_begun(self) -> bool:
        """Whether there is anything that another call could use."""
        return self.checkpoint.exists() or self.record.exists()

    def read_record(self) -> dict[str, Any] | None:
        """What was measured, as `FinetuneResult.to_dict`; None before the stage is done."""
        if not self.record.exists():
            return None
        record: dict[str, Any] = json.loads(self.record.read_text())
        return record

    def read_weights(self) -> TunedWeights | None:
        """What fine-tuning changed; None if nothing."""
        if not self.weights.exists():
            return None
        return TunedWeights.from_bytes(self.weights.read_bytes(), str(self.weights))


def check_tunable(network: Backbone) -> None:
    """Raise `BackboneError` if a network cannot be fine-tuned.

    Raises
    ------
    MissingDependencyError
        If PyTorch is not installed.
    """
    need_torch("networks that are fine-tuned")
    if network.open_network is None:
        raise BackboneError(
            f"backbone {network.name!r} cannot be fine-tuned, as its file holds a finished "
            "program; expected an embedded network such as 'lite0', timm:NAME or "
            "open_clip:MODEL/PRETRAINED; choose one, or leave out fine-tuning."
        )


def training_rows(options: BuildOptions, n: int, size: int | None = None) -> NDArray[np.int64]:
    """Positions of the images, out of n, that network and codec learn from, in random order."""
    size = min(options.train_size, n) if size is None else size
    return np.random.default_rng(options.seed).permutation(n)[:size]


def finetune_network(build: Build, files: Sequence[ImageFile]) -> Build:
    """The build with its network fine-tuned on its training images.

    An interrupted stage continues after its last whole round, and a finished one is not repeated.

    Raises
    ------
    InvalidInputError
        If there are too few images.
    BackboneError
        If the network cannot be fine-tuned, or its changes cannot be stored.
    TrainingError
        If the training diverged.
    """
    settings = as_finetune(build.options.finetune)
    if settings is None:
        return build
    settings = whole_settings(build, settings)
    kept = FinetuneFiles.of(build.state)
    if kept.read_record() is None:
        check_tunable(build.network)
        _check_number(len(files), settings)
        _run(build, files, settings, kept)
    return replace(build, network=_tuned(build.network, kept.read_weights()))


def _check_number(n: int, settings: FinetuneSettings) -> None:
    needed = MIN_CHECKED_IMAGES if settings.holdout_check else MIN_TRAINING_IMAGES
    if n < needed:
        there = "there is 1 image" if n == 1 else f"there are {n:,} images"
        raise InvalidInputError(
            f"{there} to fine-tune the network on; expected {needed} or more; leave out "
            "fine-tuning."
        )


def _run(
    build: Build, files: Sequence[ImageFile], settings: FinetuneSettings, kept: FinetuneFiles
) -> None:
    from hyperpq.training.finetuning import estimate_seconds

    rows = np.sort(training_rows(build.options, len(files)))
    kept.pixels.mkdir(exist_ok=True)
    network = build.network
    images = TrainingPixels(
        [files[row].path for row in rows],
        network.preprocessing,
        kept.pixels,
        build.read_options,
        network.device,
    )
    try:
        with build.progress.phase("decode", len(rows)) as phase:
            images.prepare(phase)
        _check_number(len(images), settings)
        if network.device == "cpu" and not kept.checkpoint.exists():
            with build.progress.phase("estimate", None, ""):
                free = replace(settings, minutes=0.0)
                seconds = estimate_seconds(images, network, free)
            shorter = "fewer epochs end" if is_end_to_end(build.options) else None
            log.warning("%s", expected_duration(len(images), settings, seconds, shorter))
        weights, record = _learn(build, images, settings, kept)
    finally:
        images.close()
    if weights is not None:
        data = weights.to_bytes()
        if len(data) > MAX_FILE_BYTES:
            raise BackboneError(
                f"the changes of backbone {network.name!r} have {len(data):,} bytes, and an index "
                f"holds {MAX_FILE_BYTES:,} at most; expected a smaller network, or fewer blocks to "
                "fine-tune: FinetuneSettings(blocks=4)."
            )
        atomic_write(kept.weights, data)
    atomic_write(kept.record, json.dumps(record).encode())
    images.remove()
    shutil.rmtree(kept.pixels, ignore_errors=True)
    kept.checkpoint.unlink(missing_ok=True)
    fsync_folder(build.state.path)


def _learn(
    build: Build, images: TrainingPixels, settings: FinetuneSettings, kept: FinetuneFiles
) -> tuple[TunedWeights | None, dict[str, Any]]:
    """Weights of the network, and what is recorded of the stage."""
    from hyperpq.training.finetuning import finetune

    if is_end_to_end(build.options):
        return learn_end_to_end(build, images, settings, kept.codec)
    result = finetune(
        images,
        build.network,
        settings,
        checkpoint=kept.checkpoint,
        resume=True,
        progress=build.progress,
    )
    return result.weights, result.to_dict()


def expected_duration(
    n: int, settings: FinetuneSettings, seconds: float, shorter: str | None = None
) -> str:
    """What is said before a network is fine-tuned on a CPU.

    Parameters
    ----------
    n : int
        Number of training images.
    settings : FinetuneSettings
        The settings.
    seconds : float
        How long it takes without a limit in time.
    shorter : str, optional
        What ends it earlier, with its verb; a limit in time unless given.
    """
    passes = settings.rounds * settings.epochs
    rate = f"{n * passes / max(seconds, 1e-9):,.1f} images/s"
    if settings.minutes:
        share = min(1.0, 60 * settings.minutes / max(seconds, 1e-9))
        return (
            f"fine-tuning on the CPU, at {rate}, goes through {n:,} images about "
            f"{share * passes:.1f} times in {settings.minutes:g} minutes; without a limit it would "
            f"be {passes} times, in {duration(seconds)}, for which a GPU takes minutes."
        )
    return (
        f"fine-tuning on the CPU will take about {duration(seconds)}, {passes} times through "
        f"{n:,} images at {rate}; a GPU takes minutes, and "
        f"{shorter or 'a limit such as 60 minutes ends'} it earlier."
    )


def _tuned(network: Backbone, tuned: TunedWeights | None) -> Backbone:
    """The network with the changes; itself if it has them already."""
    if tuned == network.tuned:
        return network
    return load_backbone(
        network.name,
        device=",".join(network.devices),
        tuned=tuned,
        precision="float32" if network.precision == "int8" else network.precision,
    )
