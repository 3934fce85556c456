"""The recipe ``paper-finetuned`` in a build: network and codec learn together, by one loss.

It takes the place of the rounds of fine-tuning and of the training of the codec. The stage has no
checkpoint: a build that is killed in it begins the stage again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpq.backbones.tuned import TunedWeights
from hyperpq.images.build.options import BuildOptions, subquantizers
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.training.presets import END_TO_END
from hyperpq.utils.files import atomic_write

if TYPE_CHECKING:
    from hyperpq.images.build.stages import Build
    from hyperpq.images.training_pixels import TrainingPixels
    from hyperpq.training.finetune_settings import FinetuneSettings


def is_end_to_end(options: BuildOptions) -> bool:
    """Whether network and codec learn together."""
    return options.recipe == END_TO_END


def whole_settings(build: Build, settings: FinetuneSettings) -> FinetuneSettings:
    """Settings of fine-tuning with what the recipe decides, see `recipe_settings`."""
    from hyperpq.training.finetune_codec import recipe_settings

    return recipe_settings(build.recipe, settings) if is_end_to_end(build.options) else settings


def learn_end_to_end(
    build: Build, images: TrainingPixels, settings: FinetuneSettings, folder: Path
) -> tuple[TunedWeights, dict[str, Any]]:
    """Learn network and codec, and write the codec to a folder.

    Parameters
    ----------
    build : Build
        The build.
    images : TrainingPixels
        Its training images.
    settings : FinetuneSettings
        Of the network, see `whole_settings`.
    folder : Path
        Where the files of the codec go.

    Returns
    -------
    weights : TunedWeights
        What has changed in the network.
    record : dict
        As `FinetuneResult.to_dict`, without rounds.
    """
    from hyperpq.codec.serialization import to_files
    from hyperpq.training.finetune_codec import finetune_codec
    from hyperpq.training.finetuning import FinetuneResult

    weights, codec = finetune_codec(
        images,
        build.network,
        build.recipe,
        settings,
        M=subquantizers(build.options.bits),
        metric=build.options.metric or "l1",
        progress=build.progress,
    )
    folder.mkdir(exist_ok=True)
    for name, data in to_files(codec).items():
        atomic_write(folder / name, data)
    return weights, FinetuneResult(weights, 1, (), settings, len(images)).to_dict()


def learned_index(build: Build, folder: Path) -> HiHPQIndex:
    """An empty index in memory with the codec that `learn_end_to_end` has written."""
    from hyperpq.codec.serialization import from_files

    codec = from_files({file.name: file.read_bytes() for file in folder.iterdir()})
    return HiHPQIndex.from_codec(codec, device=build.device, features=build.options.features)
